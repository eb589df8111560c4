# Everything runs in .venv, made on first use with the versions of constraints.txt.
# Another Python or package index: make setup PYTHON=python3.12 PIP_INDEX_URL=https://...

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 2# test processes, one core each
SPREAD := $(PYTEST) -n $(WORKERS) --dist loadfile
FULL := slow or cluster or browser

# Exit status 5 means "no test has this marker", which is no failure.
define pytest
@status=0; $(1) || status=$$?; [ $$status -eq 0 ] || [ $$status -eq 5 ]
endef

# On busy cores, threads that wait for each other take longer than one alone.
check test test-full: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: setup demo check test test-full lint bench audit assets clean help

setup: $(STAMP) ## make .venv with every package, pinned

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up .venv (once; again when the pinned versions change)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cllm needs Python 3.11 or later; remove .venv and name one: make setup PYTHON=python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(PIP) setuptools ninja torch==2.13.0
	@grep -v -i -E '^(#|deepspeed==)' constraints.txt > .venv/requirements.txt
	@$(PIP) --requirement .venv/requirements.txt
	@DS_BUILD_OPS=0 PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation deepspeed
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup ## the whole chain on the built-in recipes: texts, vectors, voids, ideas
	@$(BIN)/cllm demo

check: setup ## fast tests, below 90 seconds
	$(call pytest,$(SPREAD) -q -m "not ($(FULL) or chain)")

test: setup ## all tests but the slow tiers, below 20 minutes
	$(call pytest,$(SPREAD) -m "not ($(FULL))")

test-full: setup ## the slow tiers: cluster, browser, slow; below 45 minutes
	$(call pytest,$(SPREAD) -m "($(FULL)) and not cluster")
	$(call pytest,$(PYTEST) -m cluster --durations=10)

lint: setup ## style, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup ## speed and cost, one JSON object a program
	@for file in bench/[a-z]*.py; do \
		name=$$(basename $$file .py); [ -e $$file ] || continue; \
		$(BIN)/python -m bench.$$name --json || exit 1; done

audit: ## known faults of the pinned packages; asks pypi.org, before each release
	@test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit; }
	@.venv/audit/bin/pip-audit --disable-pip --no-deps --strict --requirement constraints.txt

assets: setup ## train again the model that ships in cllm/assets
	@$(BIN)/python -m studies.assets

clean: ## remove caches and build output, keep .venv and runs
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
