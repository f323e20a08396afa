# `make demo` and `make test` set up everything they need in .venv; nothing but python3, make and cc has to be there.

PYTHON ?= python3
TARGET ?= native
MODEL ?=
DATA ?=
THREADS ?= 1
TRIALS ?= 64
BATCH ?=
BUDGET ?=
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(RUN) -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo tune profile test test-slow lint format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo "  variables: MODEL=model.onnx  DATA=samples.npz  TARGET=$(TARGET)  THREADS=$(THREADS)  PYTHON=$(PYTHON)  ARGS='--batch 8'"

setup: $(STAMP) ## make .venv and install the pinned versions of everything in it

$(STAMP): pyproject.toml requirements/build.txt requirements/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not on the PATH: install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: Octet needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1): name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV) (some minutes the first time)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -r requirements/build.txt
	@PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation -c requirements/constraints.txt -e '.[test,tune,experiments]'
	@touch $@

demo: $(STAMP) ## compile a model for this machine, run it, compare with onnxruntime (MODEL=your.onnx for your own)
	@$(RUN) examples/demo.py --target '$(TARGET)' --threads '$(THREADS)' $(if $(DATA),--data '$(DATA)') $(if $(MODEL),'$(MODEL)') $(ARGS)

tune: $(STAMP) ## search faster schedules for TARGET (MODEL='a.onnx b.onnx' for your own, TRIALS=64, BATCH=1, BUDGET=10m)
	@$(RUN) -m pipeline tune $(or $(MODEL),examples/digits/digits_qdq.onnx) --target '$(TARGET)' --threads '$(THREADS)' --trials '$(TRIALS)' $(if $(BATCH),--batch '$(BATCH)') $(if $(BUDGET),--budget '$(BUDGET)') $(ARGS)

profile: $(STAMP) ## show where the time of a compiled model goes (MODEL=model.so)
	@test -n '$(MODEL)' || { echo "make: name a compiled model: make profile MODEL=model.so" >&2; exit 1; }
	@$(RUN) -m pipeline profile '$(MODEL)' --threads '$(THREADS)' $(if $(DATA),--data '$(DATA)') $(ARGS)

test: lint ## linters, type checker and tests
	@$(RUN) -m pytest -n 2

test-slow: $(STAMP) ## the tests that `make test` leaves out because they take long
	@$(RUN) -m pytest -n 2 -m slow

lint: $(STAMP) ## ruff and mypy
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(STAMP) ## let ruff format the code
	@$(RUN) -m ruff check --fix-only .
	@$(RUN) -m ruff format .

lock: ## pin all versions anew after a change of pyproject.toml (needs Python 3.10 to 3.13 on the PATH)
	@$(PYTHON) requirements/lock.py python3.10 python3.11 python3.12 python3.13

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
