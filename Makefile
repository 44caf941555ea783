# Each target sets itself up: a machine needs Python >= 3.11, pip and make.
# uv (pinned in requirements-uv.txt) installs what is pinned in requirements.lock into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PROFILE ?= quick

.DEFAULT_GOAL := help
.PHONY: help setup book test lint format bench lock clean

help:
	@echo "make book   run the chapters and build the book: _build/html/index.html"
	@echo "make test   run the tests"
	@echo "make lint   check style, spelling, imports, types and dead code;  make format  repair what can be repaired"
	@echo "make bench  measure every claim of speed against its reference"
	@echo "make lock   resolve pyproject.toml into requirements.lock"
	@echo "make clean  delete what was derived (data, runs, _build), not .venv"

setup: $(READY)

$(READY): requirements.lock requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed; say which with: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements-uv.txt
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

book: $(READY)
	$(BIN)/s2f book --profile $(PROFILE)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy
	@rm -rf _build/lint && mkdir -p _build/lint
	@for chapter in book/*/*.md; do \
		$(BIN)/jupytext --quiet --to py --output _build/lint/$$(basename $$chapter .md).py $$chapter; done
	$(BIN)/vulture
	$(BIN)/jupytext --quiet --test --to ipynb book/notebooks/*.md book/recipes/*.md

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	@failed=; for script in benchmarks/bench_*.py; do \
		echo "== $$script"; $(BIN)/python $$script || failed="$$failed $$script"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

lock: $(READY)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements.lock

clean:
	rm -rf _build runs data
