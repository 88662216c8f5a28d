# One command per purpose. Each builds .venv when it is missing or its pins have changed, and
# needs neither root nor anything but a Python 3.10, 3.11 or 3.12.

.DEFAULT_GOAL := help
.PHONY: help demo report test check venv which-python clean

VENV_PYTHON := .venv/bin/python
RUNTIME := .venv/.installed-runtime
DEVELOPMENT := .venv/.installed-development
PIP_INSTALL := $(VENV_PYTHON) -m pip install -qq --disable-pip-version-check

# What mypy checks; folders that do not exist are left out.
TYPED = $(wildcard common offline online train_scripts benchmarks docs download.py)

# A candidate counts only if it runs, has a supported version and can build environments: a
# pyenv shim or a Debian Python without python3-venv is found by name and still of no use.
PYTHON_WORKS := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
FOUND_PYTHON = $(shell for name in $(PYTHON) python3.11 python3.12 python3.10 python3; do \
	if "$$name" -c '$(PYTHON_WORKS)' >/dev/null 2>&1; then echo "$$name"; break; fi; done)
NO_PYTHON := no working Python 3.10, 3.11 or 3.12 (with venv) found: install one, or run make PYTHON=/path/to/python3.11

VENV_WORKS = $(shell $(VENV_PYTHON) -m pip --version >/dev/null 2>&1 && echo yes)

help:
	@echo "make demo    collect episodes, train BC, evaluate it; prints a table, saves a figure"
	@echo "make report  train and measure the six methods, three seeds each; tables, figures, a page"
	@echo "make test    run the whole test suite"
	@echo "make check   check format, lint and types"
	@echo "make venv    build .venv with everything the above need"
	@echo "make clean   remove .venv, demo/, report/ and caches; data/ and runs/ stay"

demo: $(RUNTIME)
	@$(VENV_PYTHON) -m offline.demo

report: $(RUNTIME)
	@$(VENV_PYTHON) -m offline.study

test: $(DEVELOPMENT)
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

check: $(DEVELOPMENT)
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy $(TYPED)

venv: $(DEVELOPMENT)

which-python:
	$(if $(FOUND_PYTHON),,$(error $(NO_PYTHON)))@echo $(FOUND_PYTHON)

# An environment that still works is kept and brought up to date; one that was moved or left
# half-built is built anew.
$(RUNTIME): requirements.txt
	$(if $(VENV_WORKS),,@$(or $(FOUND_PYTHON),$(error $(NO_PYTHON))) -m venv --clear .venv)
	@echo "Installing the pinned packages into .venv (minutes, the first time)"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEVELOPMENT): requirements-dev.txt $(RUNTIME)
	@echo "Installing the test requirements into .venv"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv demo report .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
