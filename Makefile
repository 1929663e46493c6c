# Everything a fresh clone needs: `make table1` and `make test` set themselves up in .venv and reuse it.
# Settings: PYTHON=python3.12, VENV=folder, INSTALLER=uv, N="300,1000", ARGS="-p seeds 1,2,3", AMBIENT_NB_RUNS=folder.
PYTHON    ?= python3
VENV      ?= .venv
INSTALLER ?= pip
N         ?= 300
ARGS      ?=
RUNS      := $(or $(AMBIENT_NB_RUNS),runs)
MIN_PYTHON := $(shell sed -n 's/^min_python *= *//p' settings.ini)
BIN        := $(VENV)/bin
PIP        := $(if $(filter uv,$(INSTALLER)),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install)

.DEFAULT_GOAL := help
.PHONY: help table1 gpu-bundle gpu-table1 gpu-ambient test test-data test-slow lab prepare readme docs clean
.DELETE_ON_ERROR:

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

table1: $(VENV)/.ready-runtime ## Table 1: trains, samples, judges; N="300,1000" for more rows
	@mkdir -p "$(RUNS)"
	$(BIN)/papermill nbs/repro_table1.ipynb "$(RUNS)/table1.ipynb" -p n "$(N)" $(ARGS)
	@$(BIN)/python tools/terminal.py "$(RUNS)/table1.ipynb"

gpu-bundle: $(VENV)/.ready-runtime ## build/gpu: all that a machine with a GPU needs, at most 45 MiB
	$(BIN)/python tools/gpu_bundle.py $(ARGS)

gpu-table1: ## there: both methods by turns in 9.3 minutes; ARGS="--seed 2" adds a seed
	$(PYTHON) build/gpu/gpu_table1.py $(ARGS)

gpu-ambient: ## there: networks of masked images by turns in 9 minutes
	$(PYTHON) build/gpu/gpu_table1.py --of ambient $(ARGS)

test: $(VENV)/.ready-dev ## every notebook and every test, minutes
	$(BIN)/python -m pytest -n 2

test-data: $(VENV)/.ready-dev ## the tests that want real images: CIFAR-10's zips in $AMBIENT_NB_DATA
	$(BIN)/python -m pytest -n 2 -m "real_data and not slow"

test-slow: $(VENV)/.ready-dev ## the same and the slow ones
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

lab: $(VENV)/.ready-lab ## JupyterLab in nbs/
	$(BIN)/jupyter lab --notebook-dir nbs

prepare: $(VENV)/.ready-dev ## format, export, clean, README: before each commit
	$(BIN)/ruff format -q nbs tests tools
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tools/derive.py

readme: $(VENV)/.ready-dev ## README, sidebar and links from settings.ini and nbs/index.ipynb
	$(BIN)/python tools/derive.py

docs: $(VENV)/.ready-dev ## the Quarto site in _docs (needs the quarto binary)
	@command -v quarto >/dev/null || { echo "make docs needs quarto: https://quarto.org/docs/get-started"; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev_docs
	$(BIN)/python tools/derive.py

clean: ## remove what can be made again, runs and .venv excepted
	rm -rf _docs _proc build dist .pytest_cache .ruff_cache .hypothesis ambient_nb.egg-info
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# One stamp per set of requirements; a change of either file installs again.
$(VENV)/.ready-runtime: EXTRA :=
$(VENV)/.ready-lab: EXTRA := [lab]
$(VENV)/.ready-dev: EXTRA := [dev]
$(VENV)/.ready-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(MIN_PYTHON)".split("."))))' 2>/dev/null \
	  || { echo "ambient_nb needs Python $(MIN_PYTHON) or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VENV) (once, a minute or two)"
	@$(PYTHON) -m venv "$(VENV)"
	@$(PIP) -c constraints.txt -e ".$(EXTRA)"
	@touch $@ $(VENV)/.ready-runtime
