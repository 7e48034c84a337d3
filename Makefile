.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help:  ## Show what can be made.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch>=2.10,<2.14" packaging
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

setup: .venv/ready  ## Make the environment in .venv.

demo: setup  ## Run the whole loop on this machine: coordinator, four plants, TLS, privacy.
	$(BIN)/interplant demo $(ARGS)

test: setup  ## Run every test.
	$(BIN)/python -m pytest $(ARGS)

check: setup  ## Lint, format and type check.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layout.py

bench: setup  ## Run the benchmarks; each prints JSON.
	$(BIN)/python benchmarks/rounds.py --json

proto: setup  ## Generate code from core/federation.proto.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I .typing --python_out=.typing \
	  --mypy_out=.typing --grpc_python_out=.typing --mypy_grpc_out=.typing interplant/core/federation.proto

clean:  ## Remove what was made here.
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis interplant-demo

.PHONY: help setup demo test check bench docs proto clean
