# Each target is one line; CI runs `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint bench conformance nightly

setup: .venv/ready

demo: setup
	$(BIN)/python tutorials/01_compile_and_run.py

test: setup lint
	$(BIN)/python -m pytest -q -n 2

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

bench: setup
	$(BIN)/python benchmarks/suite.py

conformance: setup
	$(BIN)/python benchmarks/conformance.py --write

nightly: setup lint
	$(BIN)/python -m pytest -q -m ''

# Debian's Python comes without ensurepip, so there the outer pip installs the inner one.
.venv/bin/pip:
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python .venv install -q pip; }

.venv/ready: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install -q -e '.[dev]' && touch $@
