# Everything a newcomer, a developer and CI need. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is never imported need not be compiled; the rest is when it is imported first, and once for
# the hundreds of processes that tests start, also where the environment forbids it elsewhere.
INSTALL := python -m pip install --no-compile --quiet --disable-pip-version-check
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/$(INSTALL)
# Workers of pytest: one a processor.
JOBS ?= $(shell nproc)
# Of a benchmark and its options; without a name they are listed.
NAME ?=
ARGS ?=
KEEP ?=

.PHONY: help install demo test check format sim bench clean

help:
	@echo "make install   an environment in $(VENV) with all frameworks"
	@echo "make demo      install, serve the example models, ask them, show what happened (KEEP=1: keep serving)"
	@echo "make test      every test"
	@echo "make check     style, types, layers, sizes"
	@echo "make sim       the decisions under faults in made-up time: SEEDS=5000, or SEED=17 alone"
	@echo "make bench     a benchmark: NAME=ceiling, peers, … (without: lists them; ARGS='--rounds 5')"
	@echo "make clean     remove the environment and what was generated"

install: $(VENV)/.with-all

demo: $(VENV)/.with-frameworks
	@KEEP=$(KEEP) $(BIN)/python -m examples.demo

# By files, in the order of their names: the short ones, tests/unit, come last.
test: $(VENV)/.with-tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 2

check: $(VENV)/.with-tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_tidy.py

# One seed in detail, or very many; a failing one says how to see it again.
sim: $(VENV)/.with-tests
	$(BIN)/python -m tests.sim.run $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000)) $(ARGS)

bench: $(VENV)/.with-tests
	$(BIN)/python -m benchmarks $(NAME) $(ARGS)

clean:
	rm -rf $(VENV) examples/models .demo build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------

# torch on its own line: its CPU build is chosen by pip's configuration where there is one.
$(VENV)/.with-frameworks: pyproject.toml $(VENV)/.exists
	$(PIP) "torch==2.13.0"
	$(PIP) --editable ".[usual,examples]"
	@touch $@

$(VENV)/.with-all: $(VENV)/.with-frameworks
	$(PIP) --editable ".[all,examples]"
	@touch $@

# These can be made at once: make -j4.
$(VENV)/.with-tests: $(VENV)/.with-test-packages $(VENV)/.with-test-tools \
		$(VENV)/kserve-client/.installed $(VENV)/mlserver/.installed \
		$(VENV)/triton/.installed $(VENV)/azurite/.installed
	@touch $@

$(VENV)/.with-test-packages: $(VENV)/.with-frameworks
	$(PIP) --editable ".[all,examples,test,dev]"
	@touch $@

$(VENV)/.with-test-tools: scripts/debian-packages $(VENV)/.exists
	@scripts/debian-packages tests
	@touch $@

# KServe's SDK needs other versions of what Shoal needs too: it asks the server from its own place.
$(VENV)/kserve-client/.installed: $(VENV)/.exists
	$(PYTHON) -m venv $(VENV)/kserve-client
	$(VENV)/kserve-client/bin/$(INSTALL) "kserve==0.21.0"
	@touch $@

# Servers that tests load models into: MLServer, and the Triton of a wheel that has its Python
# backend alone (55 MB), which was built for numpy 1 and finds its code for this Python beside it.
$(VENV)/mlserver/.installed: $(VENV)/.exists
	$(PYTHON) -m venv $(VENV)/mlserver
	$(VENV)/mlserver/bin/$(INSTALL) "mlserver==1.7.1" "mlserver-sklearn==1.7.1"
	@touch $@

$(VENV)/triton/.installed: $(VENV)/.exists
	$(PYTHON) -m venv $(VENV)/triton
	$(VENV)/triton/bin/$(INSTALL) --no-deps "nvidia-pytriton==0.7.0" "numpy<2"
	cd $(VENV)/triton/lib/python*/site-packages/pytriton/tritonserver && \
		cp python_backend_stubs/$$($(CURDIR)/$(VENV)/triton/bin/python -c \
		'import sys; print("%d.%d" % sys.version_info[:2])')/* backends/python/
	@touch $@

# Azure's storage, by its own emulator.
$(VENV)/azurite/.installed: $(VENV)/.with-test-tools
	npm install --prefix $(VENV)/azurite --silent --no-audit --no-fund --no-package-lock \
		azurite@3.35.0
	@touch $@

$(VENV)/.exists:
	@scripts/debian-packages
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@
