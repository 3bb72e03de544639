# Every target sets up what it needs: Python 3.11 or later, pip and make are enough to begin with.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Two test processes; the tests of a file share its servers, so they stay together.
PARALLEL ?= --numprocesses 2 --dist loadfile
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check fmt bench lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install the locked packages

$(STAMP): requirements.lock pyproject.toml
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check uv
	$(RUN)/uv pip sync --quiet --python $(RUN)/python --require-hashes requirements.lock
	$(RUN)/uv pip install --quiet --python $(RUN)/python --no-deps --editable .
	touch $(STAMP)

demo: $(STAMP) ## the whole journey on drawn pictures, in minutes on two cores
	$(RUN)/neuclip demo

test test-all: export OMP_NUM_THREADS := 1 # threads that wait for each other would take the other process's core

test: $(STAMP) ## the tests, without the slow ones
	$(RUN)/python -m pytest $(PARALLEL) -m "not slow and not gpu"

test-all: $(STAMP) ## all tests
	$(RUN)/python -m pytest $(PARALLEL)

check: $(STAMP) ## format, lint, types, import contract
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/pyright
	$(RUN)/lint-imports

fmt: $(STAMP) ## format the code
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: $(STAMP) ## measure; see bench/README.md
	$(RUN)/python -m bench

lock: $(STAMP) ## resolve the packages anew into requirements.lock
	$(RUN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev --no-header \
		--no-annotate --output-file requirements.lock pyproject.toml

clean: ## remove the environment, caches and the demo
	rm -rf $(VENV) lake .pytest_cache .ruff_cache .hypothesis .import_linter_cache
