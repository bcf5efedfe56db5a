# Everything a newcomer, a developer and CI need. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Workers of pytest: one a processor.
JOBS ?= $(shell nproc)
# Of a benchmark and its options; without a name they are listed.
NAME ?=
ARGS ?=
KEEP ?=

.PHONY: help install demo test check format bench clean

help:
	@echo "make install   an environment in $(VENV) with all frameworks"
	@echo "make demo      install, serve the example models, ask them, show what happened (KEEP=1: keep serving)"
	@echo "make test      every test"
	@echo "make check     style, types, layers, sizes"
	@echo "make bench     a benchmark: NAME=ceiling, peers, … (without: lists them; ARGS='--rounds 5')"
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
	$(BIN)/python -m benchmarks $(NAME) $(ARGS)

clean:
	rm -rf $(VENV) examples/models .demo build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------

# torch on its own line: its CPU build is chosen by pip's configuration where there is one.
$(VENV)/.with-frameworks: pyproject.toml $(VENV)/.exists
	$(PIP) "torch==2.13.0"
	$(PIP) --editable ".[all,examples]"
	@touch $@

$(VENV)/.with-tests: $(VENV)/.with-frameworks $(VENV)/kserve-client/.installed
	$(PIP) --editable ".[all,examples,test,dev]"
	@scripts/debian-packages tests
	@touch $@

# KServe's SDK needs other versions of what Shoal needs too: it asks the server from its own place.
$(VENV)/kserve-client/.installed: $(VENV)/.exists
	$(PYTHON) -m venv $(VENV)/kserve-client
	$(VENV)/kserve-client/bin/python -m pip install --quiet --disable-pip-version-check "kserve==0.21.0"
	@touch $@

$(VENV)/.exists:
	@scripts/debian-packages
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@
