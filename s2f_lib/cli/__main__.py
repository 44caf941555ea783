"""`python -m s2f_lib.cli`, the form that `accelerate launch -m` and `torchrun -m` start."""

from s2f_lib.cli.main import main

if __name__ == "__main__":
    main()
