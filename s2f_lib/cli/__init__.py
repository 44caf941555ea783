"""The command line `s2f`."""
