# `make demo` and `make test` set up all they need: a virtual environment in .venv, then amlib in it.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
MINUTES ?= 30
# One worker for each core; what a file compiles, its other tests use. `make test JOBS=0` runs in one.
JOBS ?= auto
PYTEST = $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# nbdev imports the renderer that [tool.nbdev] names; progress bars are no part of a notebook's output.
NBDEV := PYTHONPATH=nbs/_sphinx TQDM_DISABLE=1 JAX_NUM_CPU_DEVICES=8

.PHONY: demo test fuzz slow check format bench figures nbs nbs-save api docs docs-serve dist clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	$(PY) -m amlib $(ARGS)

test: $(VENV)/.test
	$(PYTEST) $(ARGS)

# Random energies against the flip analysis; what fails is kept as programs in fuzz-failures/.
fuzz: $(VENV)/.test
	$(PY) -m tests.fuzzing --minutes $(MINUTES) $(ARGS)

# Here running takes longer than compiling: XLA makes good code.
slow: $(VENV)/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m slow $(ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(PY)

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.peers
	$(PY) benchmarks/bench_flips.py
	$(PY) benchmarks/bench_local.py
	$(PY) benchmarks/bench_million.py
	$(PY) benchmarks/bench_retrieval.py
	$(PY) benchmarks/bench_faiss.py
	$(PY) benchmarks/bench_disk.py
	$(PY) benchmarks/bench_first.py
	$(PY) benchmarks/bench_samplers.py

# Every figure of benchmarks/results, from the numbers stored there: nothing is measured.
REDRAWN = theory_biased theory_exponential theory_minima theory_overlap theory_phases \
  theory_polynomial bench_sequences diffusion_circle diffusion_memory distributed_memory
figures: $(VENV)/.test
	for name in $(REDRAWN); do $(PY) benchmarks/$$name.py --redraw || exit 1; done
	$(PY) benchmarks/bench_potts.py --draw
	$(PY) benchmarks/bench_reconstructors.py report
	$(PY) benchmarks/bench_scaling.py --draw benchmarks/results/scaling.json
	$(PY) benchmarks/capacity_rules.py --draw
	$(PY) benchmarks/compare_memories.py --draw
	$(PY) benchmarks/report_energy_transformer.py
	$(PY) benchmarks/train_classifier.py --draw
	$(PY) benchmarks/train_hierarchies.py --table >/dev/null
	$(PY) assets/make_figures.py

# The notebooks as tests; `make nbs-save` also stores their outputs, which the site shows.
nbs: $(VENV)/.docs
	$(NBDEV) $(VENV)/bin/nbdev-test --n-workers 2 --verbose

nbs-save: $(VENV)/.docs
	$(NBDEV) $(VENV)/bin/nbdev-test --n-workers 2 --save
	$(NBDEV) $(VENV)/bin/nbdev-clean
	$(VENV)/bin/ruff format nbs
	$(PY) nbs/_sphinx/palettes.py # a third of the bytes
	$(PY) nbs/_sphinx/api.py # its outputs leave out what moves with every change

api: $(VENV)/.docs
	$(PY) nbs/_sphinx/api.py

docs: $(VENV)/.docs
	rm -rf cache/docs _docs
	$(PY) -m sphinx -qW --keep-going -c nbs/_sphinx -d cache/docs/trees nbs cache/docs/html
	mv cache/docs/html _docs

docs-serve: docs
	$(PY) -m http.server --directory _docs --bind 127.0.0.1 8000

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

$(VENV)/.peers: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,peers]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

$(VENV)/.dev: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev,docs]'
	@touch $@ $(VENV)/.dev $(VENV)/.test $(VENV)/.demo

# Wheel and sdist in dist/, each installed alone and tried, as a release does.
dist:
	bash .ci/dist $(PYTHON)

clean:
	rm -rf $(VENV) build dist amlib-demo _docs cache/docs
