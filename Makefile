# Everything works from a fresh clone with Python 3.11+, make and git: the first call makes .venv and installs the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# Nothing phones home.
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export RAY_USAGE_STATS_ENABLED := 0
# The embedded world's tensors are small: more threads per process cost more than they gain.
export OMP_NUM_THREADS ?= 1
# dvc.yaml says `python -m spin`: let that be the environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo test test-fast mutants soak lint format ui worker lock clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "spin-diffusion needs Python 3.11 or newer, found $$($(PYTHON) -V); call make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked requirements into $(VENV): once, some minutes; 7 GB, most of it PyTorch for GPUs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(READY)  ## Make .venv and install the lock

demo: $(READY)  ## Play SPIN on the embedded world: three iterations, baselines, tables, report
	@$(BIN)/python -m flows

ui: $(READY)  ## Prefect, MLflow and a worker on localhost, until Ctrl-C
	@$(BIN)/python -m flows.ui

worker: $(READY)  ## A worker for the Prefect server that PREFECT_API_URL names, until Ctrl-C
	@$(BIN)/python -m flows.worker

test: $(READY)  ## All tests, two files at a time
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(READY)  ## The tests that take seconds
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

mutants: $(READY)  ## Change the method and the trainer line by line and see the tests fail (an hour or two)
	@$(BIN)/python -m tests.mutants

soak: $(READY)  ## 200 kills of whatever can be killed, and nothing may be lost (two hours)
	@$(BIN)/python -m benchmarks.soak

lint: $(READY)  ## Format check, linter, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY)  ## Format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(READY)  ## Resolve pyproject.toml anew into requirements.lock, without addresses
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile -q pyproject.toml --extra ops --extra dev --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade -o requirements.lock

clean:  ## Remove what runs made (outputs, unfinished work, local stores), not the DVC cache or .venv
	@rm -rf outputs .spin dvc.lock .mypy_cache .ruff_cache .pytest_cache
