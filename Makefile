# `make demo` and `make test` set up all they need: a virtual environment in .venv, then amlib in it.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=

.PHONY: demo test slow check format bench clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	$(PY) -m amlib $(ARGS)

test: $(VENV)/.test
	$(PY) -m pytest $(ARGS)

slow: $(VENV)/.test
	$(PY) -m pytest -m slow $(ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(PY)

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.test
	$(PY) benchmarks/bench_flips.py
	$(PY) benchmarks/bench_retrieval.py

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "amlib needs Python 3.11 or newer; $$($(PYTHON) --version) came. Name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "No virtual environment: on Debian and Ubuntu, install the package python3-venv."; exit 2; }

# Each stamp is one way of installing; a changed pyproject.toml installs again.
$(VENV)/.demo: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist amlib-demo
