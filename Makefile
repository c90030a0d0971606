# Everything a newcomer needs is behind these names; each sets up what it needs, once.
.DEFAULT_GOAL := help
.PHONY: help demo up test test-deploy quick check client locks simulate bench format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CHECKOV := .venv-checkov
CHECKOV_READY := $(CHECKOV)/ready
CLIENT := frontend/client
CLIENT_READY := $(CLIENT)/node_modules/ready
# One more than there are cores: now and then one of them waits.
TESTERS := $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	$(BIN)/python -m pytest -n $(TESTERS) -m 'not slow and not deploy'
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'slow and not deploy'

test-deploy: $(READY) $(CHECKOV_READY) ## Check Terraform, images and workflows, and what they deploy, on emulators
	$(BIN)/python -m pytest -n 2 --dist loadfile -m deploy

# checkov brings 290 MB and versions of its own: it lives apart, and is left out where it cannot be had.
$(CHECKOV_READY):
	@echo "Setting up $(CHECKOV) (once; a minute or two) ..."
	@if $(PYTHON) -m venv $(CHECKOV) && $(CHECKOV)/bin/python -m pip install --quiet 'checkov>=3.2,<4'; then touch $@; \
	else echo "checkov cannot be installed: its checks of terraform/ are left out"; fi

# The tests of the TypeScript client need its packages. They are left out where they cannot be had.
# (Not by npm's --prefix: with it npm would look elsewhere for the machine's own settings.)
$(CLIENT_READY): $(CLIENT)/package-lock.json
	@if ! command -v npm >/dev/null; then \
	  echo "npm is not on this machine: the checks of the TypeScript client are left out"; \
	elif (cd $(CLIENT) && npm ci --no-audit --no-fund --no-update-notifier --loglevel=error); then touch $@; \
	else echo "npm ci failed: the checks of the TypeScript client are left out"; fi

quick: $(READY) ## The tests that start no processes of their own
	$(BIN)/python -m pytest -n $(TESTERS) -m 'not slow and not deploy'

check: $(READY) $(CLIENT_READY) ## ruff, mypy --strict, import-linter, deptry; tsc --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	@if [ -e $(CLIENT_READY) ]; then npm run --silent --prefix $(CLIENT) check; \
	else echo "tsc was left out"; fi

client: $(READY) $(CLIENT_READY) ## Make the TypeScript client's types anew from the API
	$(BIN)/python -m webhook.print_openapi > $(CLIENT)/openapi.json
	npm run --silent --prefix $(CLIENT) generate

# What the images install. Pins that still fit are kept: UPGRADE=--upgrade looks for newer ones.
# uv resolves for every platform and Python at once, which pip cannot; it lives in its own folder.
UPGRADE ?=
LOCKER := .venv-locks
LOCK = $(LOCKER)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make locks' $(UPGRADE)
locks: ## Pin what the images install, with hashes (UPGRADE=--upgrade: anew)
	@$(PYTHON) -m venv $(LOCKER)
	@$(LOCKER)/bin/python -m pip install --quiet 'uv==0.13.8'
	$(LOCK) docker/build.in --output-file docker/requirements-build.txt
	$(LOCK) docker/emulator.in --output-file docker/requirements-emulator.txt
	$(LOCK) pyproject.toml --extra functions --extra postgres --extra qdrant \
	  --output-file docker/requirements-functions.txt
	$(LOCK) pyproject.toml --extra postgres --extra qdrant \
	  --output-file docker/requirements-worker-cpu.txt
	$(LOCK) pyproject.toml --extra gpu --extra postgres --extra qdrant \
	  --no-emit-package fastembed --no-emit-package onnxruntime \
	  --output-file docker/requirements-worker-gpu.txt

SEEDS ?= 20000
simulate: $(READY) ## Whole installations under faults: make simulate SEEDS=1000000
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

bench: $(READY) ## Measure the product, alone and beside its peers (hours; BENCH_QUICK=1 is shorter)
	$(BIN)/python -m tests.bench

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and caches
	rm -rf $(CLIENT)/node_modules $(CLIENT)/build $(VENV) $(CHECKOV) .venv-peers $(LOCKER) .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
