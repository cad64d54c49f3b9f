# Everything happens in .venv: `make demo` and `make test` need only Python 3.11, make and a package index.
#
# What a run uses:
#   PYTHON=python3.12   the interpreter of a new environment; VENV=.venv-3.12 keeps it beside .venv
#   REDIS=7.0           the Redis server of tests and benchmarks: 6.2, 7.0, 7.4, 8.2 or valkey
#                       (tests/support/redis_servers.py); without it, the one that the demo uses
#   CELERY=5.6          the Celery series, in .venv-celery-5.6 with the pins of constraints-celery-5.6.txt

VENV := .venv
PINS := constraints.txt
ifneq ($(filter-out 5.7,$(CELERY)),)
VENV := .venv-celery-$(CELERY)
PINS := $(VENV)/constraints.txt
endif
PY := $(VENV)/bin/python
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
TOOLS := $(VENV)/.installed-tools
INPUTS := pyproject.toml $(PINS)
AT_LEAST_311 := -c 'import sys; raise SystemExit(sys.version_info < (3, 11))'

ifneq ($(REDIS),)
SERVER := $(VENV)/servers/$(REDIS)/redis-server
export PATH := $(abspath $(dir $(SERVER))):$(PATH)
endif

# Tests wait for processes most of the time: three workers for each core (tests/conftest.py), and files
# whose tests share a fixture on one of them (tests/support/selection.py).
PYTEST := $(VENV)/bin/pytest -n auto
# Hundreds of processes import the same modules: each would compile them.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-slow test-all test-cluster test-celery chaos mutants lint docs bench wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: $(DEV) $(TOOLS) ## make .venv with everything for development

demo: $(DEMO) ## run the demo (installs only what it needs)
	$(VENV)/bin/gpuqueue demo

test: $(DEV) $(TOOLS) $(SERVER) ## run the quick tests
	$(PYTEST) -m "not slow" tests

test-slow: $(DEV) $(TOOLS) $(SERVER) ## run the slow tests, with one of five parts of the whole-stack cases on the double
	GPUQUEUE_TEST_PART=$(or $(GPUQUEUE_TEST_PART),commit) GPUQUEUE_TEST_PODS=$(or $(GPUQUEUE_TEST_PODS),commit) \
	  $(PYTEST) -m slow tests

test-all: $(DEV) $(TOOLS) $(SERVER) ## run every test
	GPUQUEUE_TEST_PART=all $(PYTEST) tests

test-cluster: $(DEV) ## run the end-to-end tests on the cluster of KUBECONFIG (see tests/cluster/conftest.py)
	$(VENV)/bin/pytest tests/cluster

SUITE := --packages $(VENV)/celery-suite $(and $(OUTPUT),--output $(OUTPUT)) $(and $(ONLY),--only $(ONLY))

test-celery: $(DEV) $(SERVER) ## run Celery's integration suites through GPU queues: CELERY_REPO=../celery
	@test -n "$(CELERY_REPO)" || { echo "error: name a checkout: make test-celery CELERY_REPO=../celery" >&2; exit 2; }
	$(PY) -m tests.celery_suite $(CELERY_REPO) $(SUITE)

# In parts, which `make --jobs=2 lint` runs side by side.
LINTS := lint-types lint-style lint-layers lint-words
.PHONY: $(LINTS)
lint: $(LINTS) ## check style, types, layers, Lua and names of tests

lint-types: $(DEV)
	$(VENV)/bin/mypy

lint-style: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

lint-layers: $(DEV)
	$(VENV)/bin/lint-imports
	$(VENV)/bin/lint-imports --config tests/doubles/.importlinter

lint-words: $(DEV)
	$(PY) -m tests.lint.lua
	$(PY) -m tests.lint.voice
	$(PY) -m tests.lint.names

docs: $(DEV) ## build the documentation site into site/, without the network
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

CHAOS := $(and $(SEED),--seed $(SEED)) $(and $(SCHEDULES),--schedules $(SCHEDULES)) \
  $(and $(LAUNCHER),--launcher $(LAUNCHER)) $(and $(MINUTES),--minutes $(MINUTES)) \
  $(and $(OUTPUT),--output $(OUTPUT))

chaos: $(DEV) $(SERVER) ## run seeded schedules of faults: SEED=1 SCHEDULES=100 LAUNCHER=local|kubernetes MINUTES=40
	$(PY) -m tests.chaos --traces .chaos $(CHAOS)

mutants: $(DEV) $(SERVER) ## remove the guards of the Lua scripts one by one; a test must fail for each
	$(PY) -m tests.mutants

# The words after `bench` are names of benchmarks, and no targets.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
BENCHMARKS := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
ifneq ($(BENCHMARKS),)
.PHONY: $(BENCHMARKS)
$(BENCHMARKS): bench
	@:
endif
endif

bench: $(DEV) $(SERVER) ## run the benchmarks, or some: make bench replay TRACES=../traces
	$(PY) -m benchmarks $(BENCHMARKS) $(and $(TRACES),--traces $(TRACES))

wheel: $(DEV) ## build the wheel and the source archive into dist/
	rm -rf build dist
	$(PY) -m build --no-isolation

clean: ## remove .venv, caches and build outputs
	rm -rf .venv* build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# PYTHON=... chooses the interpreter. It is asked for its version: a command of that name may be a shim for none.
$(PY):
	@set -e; \
	for python in $(or $(PYTHON),python3.11 python3); do \
	  if "$$python" $(AT_LEAST_311) >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$python ($$("$$python" -V))"; \
	    "$$python" -m venv $(VENV) || { \
	      rm -rf $(VENV); \
	      echo "error: '$$python -m venv' failed; on Debian it needs the package python3-venv" >&2; exit 1; }; \
	    exit 0; \
	  fi; \
	done; \
	echo "error: gpuqueue needs Python 3.11 or newer; tried: $(or $(PYTHON),python3.11 python3)." >&2; \
	echo "       Install it, or name one: make venv PYTHON=/path/to/python3.11" >&2; exit 1

# A stamp is written only after pip has succeeded, so an interrupted install is done again. The interpreter is an
# order-only prerequisite: its own date says nothing.
$(DEV): $(INPUTS) | $(PY)
	$(PY) -m pip install --disable-pip-version-check -c $(PINS) -e '.[dev]'
	@touch $(DEMO) $@

$(DEMO): $(INPUTS) | $(PY)
	$(PY) -m pip install --disable-pip-version-check -c $(PINS) -e '.[demo]'
	@touch $@

# Helm, kubectl and promtool, for the tests of deploy/ and charts/: see tests/deploy/tools.py.
$(TOOLS): constraints.txt tests/deploy/tools.py tests/support/fetch.py | $(DEV)
	$(PY) -m tests.deploy.tools
	@touch $@

# The pins of another Celery series replace those of constraints.txt.
$(VENV)/constraints.txt: constraints-celery-$(CELERY).txt constraints.txt | $(PY)
	awk -F == 'FNR == NR { pinned[$$1] } FNR == NR || !($$1 in pinned)' $^ > $@

$(VENV)/servers/%/redis-server: tests/support/redis_servers.py tests/support/fetch.py constraints.txt | $(DEV)
	$(PY) -m tests.support.redis_servers $* $(@D)
