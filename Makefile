# Everything a newcomer needs is behind these names; each sets up what it needs, once.
.DEFAULT_GOAL := help
.PHONY: help demo up test quick check simulate bench format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("BloomWeaver needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV) (once; a minute or two) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY) ## Push a real documentation tree through everything, search it, stop
	@$(BIN)/bloomweaver demo

up: $(READY) ## Start BloomWeaver and stay up (Ctrl-C drains and stops)
	@$(BIN)/bloomweaver up

test: check ## Check everything: linters, types, contracts, all tests
	$(BIN)/python -m pytest -n auto -m 'not slow'
	$(BIN)/python -m pytest -m slow

quick: $(READY) ## The tests that start no processes of their own
	$(BIN)/python -m pytest -n auto -m 'not slow'

check: $(READY) ## ruff, mypy --strict, import-linter, deptry
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

SEEDS ?= 20000
simulate: $(READY) ## Whole installations under faults: make simulate SEEDS=1000000
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

bench: $(READY) ## Measure the product, alone and beside its peers (hours; BENCH_QUICK=1 is shorter)
	$(BIN)/python -m tests.bench

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
