.DEFAULT_GOAL := help
PYTHON ?= python3
WORKERS ?= 2
ROUNDS ?= 10
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

help:  ## Show what can be made.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

# Built without isolation: an isolated build would fetch whatever setuptools is newest, not the pinned one.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || { echo 'Interplant needs Python 3.11 or 3.12: make PYTHON=python3.11 …' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@

setup: .venv/ready  ## Make the environment in .venv.

demo: setup  ## Run the whole loop on this machine: coordinator, four plants, TLS, privacy.
	$(BIN)/interplant demo $(ARGS)

# A file's tests stay in one process, for what they share; the long files begin, see tests/conftest.py.
test: setup  ## Run every test, in two processes.
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# `make test` tries the same random examples each time, see tests/conftest.py; this tries others in each round.
fuzz: setup  ## Run the tests with random examples ROUNDS times, each time with others.
	for round in $$(seq $(ROUNDS)); do $(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=default \
	  --numprocesses $(WORKERS) $(ARGS) || exit 1; done

lint: setup  ## Lint, format, types.
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint  ## The same, and what is quick to test: layout, documents.
	$(BIN)/python -m pytest -q tests/test_layout.py tests/test_repository.py tests/test_docs.py

bench: setup  ## Run the benchmarks; each prints JSON.
	@$(BIN)/python benchmarks/rounds.py --json $(ARGS)

docs: setup  ## Build the documentation in site/; a broken link fails.
	$(BIN)/mkdocs build --quiet --strict

proto: setup  ## Generate code from core/federation.proto.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I .typing --python_out=.typing \
	  --mypy_out=.typing --grpc_python_out=.typing --mypy_grpc_out=.typing interplant/core/federation.proto

clean:  ## Remove what was made here.
	rm -rf .venv build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis interplant-demo

.PHONY: help setup demo test fuzz lint check bench docs proto clean
