# make lab     set everything up and open the course        make course     execute every notebook
# make test    set everything up and run the tests          make notebooks  rebuild the generated views
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready
VIEWS ?= notebooks/pytorch solutions/pytorch notebooks/tensorflow solutions/tensorflow
START := notebooks/pytorch/00_start_here.ipynb
# Jupyter refuses to serve root (a container's usual user) unless told that it is meant.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup lab test nbval course notebooks benchmarks records clean

help:
	@sed -n '1,2s/^# //p' Makefile
	@echo 'make setup   only set up                                  make clean      remove what was made here'

# Set up once; again only when a list of requirements changes. Interrupted, it goes on where it was.
setup: $(READY)

$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
	  "This course needs Python 3.11, 3.12 or 3.13; %s is %d.%d. Name another: make setup PYTHON=python3.12" \
	  % (sys.executable, *sys.version_info[:2]))'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef TORCH_INDEX
	$(PIP) install --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.txt)
endif
	$(PIP) install -r requirements.txt -c constraints.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	$(BIN)/tlcourse assets --fetch
	@touch $@

lab: setup
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab $(ALLOW_ROOT) --LabApp.default_url=/lab/tree/$(START) $(LAB)

$(VENV)/nbgrader/.ready: tests/nbgrader.txt | setup
	$(PIP) install --no-deps --upgrade --target $(VENV)/nbgrader -r tests/nbgrader.txt
	@touch $@

test: setup $(VENV)/nbgrader/.ready
	$(BIN)/python -m pytest $(TESTS)

# Every generated notebook in the cpu profile; a false claim or a changed checked output fails. Two
# at a time with one thread each: two that use all cores would slow each other down many times.
nbval: setup
	OMP_NUM_THREADS=1 TLCOURSE_PROGRESS=off $(BIN)/python -m pytest -n 2 --dist loadfile \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=600 $(VIEWS)

course: setup
	$(BIN)/tlcourse run --profile cpu --framework both --out runs/course

notebooks: setup
	$(BIN)/tlcourse notebooks

benchmarks: setup
	$(BIN)/python benchmarks/features.py --record
	$(BIN)/python benchmarks/recipe.py --record

# The long runs that lessons draw. What is recorded is skipped: move a file out of
# benchmarks/results/ to repeat it; interrupted, it goes on where it was.
records: setup
	$(BIN)/python benchmarks/learning_curves.py
	$(BIN)/python benchmarks/fine_tuning.py
	$(BIN)/python benchmarks/solar_case.py
	$(BIN)/python benchmarks/bert_labels.py --framework pytorch

clean:
	rm -rf $(VENV) runs build *.egg-info tests/browser/screenshots .pytest_cache .ruff_cache
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
