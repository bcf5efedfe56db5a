# Everything a newcomer, a developer and CI need. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Workers of pytest: one a processor.
JOBS ?= $(shell nproc)
NAME ?= ceiling
KEEP ?=

.PHONY: help install demo test check format bench clean

help:
	@echo "make install   an environment in $(VENV) with all frameworks"
	@echo "make demo      install, serve the example models, ask them, show what happened (KEEP=1: keep serving)"
	@echo "make test      every test"
	@echo "make check     style, types, layers, sizes"
	@echo "make bench     a benchmark: NAME=ceiling, http, cold, eviction (see benchmarks/README.md)"
	@echo "make clean     remove the environment and what was generated"

install: $(VENV)/.with-frameworks

demo: $(VENV)/.with-frameworks
	@KEEP=$(KEEP) $(BIN)/python -m examples.demo

test: $(VENV)/.with-tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(VENV)/.with-tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_tidy.py

bench: $(VENV)/.with-tests
	$(BIN)/python -m benchmarks $(NAME)

clean:
	rm -rf $(VENV) examples/models .demo build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------

# torch on its own line: its CPU build is chosen by pip's configuration where there is one.
$(VENV)/.with-frameworks: pyproject.toml $(VENV)/.exists
	$(PIP) "torch==2.13.0"
	$(PIP) --editable ".[all,examples]"
	@touch $@

$(VENV)/.with-tests: $(VENV)/.with-frameworks
	$(PIP) --editable ".[all,examples,test,dev]"
	@touch $@

$(VENV)/.exists:
	@scripts/debian-packages
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@
