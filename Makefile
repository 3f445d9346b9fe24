# Every habit of the project. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)
PYTEST := $(BIN)/python -m pytest
STAMP := $(VENV)/.ready
TRITON36 := build/triton-3.6.0

.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-triton36 lint format types demo bench gpu docs goldens hooks clean

help: ## list every habit
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# torch comes first and alone, by its exact version: where a CPU wheel of it is at hand, pip takes that one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "recurc needs Python 3.11 or later; $(PYTHON) is older. Try: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing recurc and what its tests need into $(VENV) (a minute or two, once)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --constraint constraints.txt --editable '.[torch,gpu,plot,bench,dev]'
	@$(BIN)/python -m compileall -q recurc
	@touch $@

setup: $(STAMP) ## make .venv with recurc (editable) and every tool, at the versions of constraints.txt

test: lint types ## lint, types and the tests (what a change must pass)
	$(PYTEST) -n $(JOBS) --dist loadfile -m "not slow and not gpu"

test-all: lint types test-triton36 ## the same with the slow tests, and machine code on Triton 3.6.0 too
	$(PYTEST) -n $(JOBS) --dist loadfile -m "not gpu"

test-triton36: $(STAMP) ## compile the Triton kernels for real chips with Triton 3.6.0
	@test -d $(TRITON36)/triton || $(PIP) --no-deps --target $(TRITON36) triton==3.6.0
	PYTHONPATH=$(TRITON36) $(BIN)/python -c 'import triton; print("Triton", triton.__version__)'
	PYTHONPATH=$(TRITON36) $(PYTEST) tests/gpu -k triton -m "machine_code and not gpu"

lint: $(STAMP) ## ruff: mistakes and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## ruff: put the formatting and the imports right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## pyright, strict
	$(BIN)/pyright

demo: $(STAMP) ## compile five systems, run them on real data, leave pictures and kernels in build/demo
	$(BIN)/python -m examples.demo --out build/demo

bench: $(STAMP) ## peers side by side in one run; writes docs/benchmarks.md
	$(BIN)/python -m bench

gpu: $(STAMP) ## everything that needs a real GPU: correctness, then benchmarks, then one results file
	@$(BIN)/python -m bench.gpu

docs: $(STAMP) ## write the pages that come from the code: error codes, list of files
	@mkdir -p build
	$(BIN)/python docs/error_pages.py
	$(BIN)/python docs/cost_tables.py
	$(BIN)/python -m tests.zoo.page > build/zoo.md && cp build/zoo.md docs/zoo.md
	$(BIN)/python docs/list_files.py > build/files.md && cp build/files.md docs/files.md

goldens: $(STAMP) ## write the golden files anew; read the difference before you commit it
	$(PYTEST) -m "not slow and not gpu" --update-goldens

hooks: $(STAMP) ## run the checks before each commit
	$(BIN)/pre-commit install

clean: ## remove what was built (not .venv)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find recurc tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +
