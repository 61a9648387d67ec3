# Works in a fresh clone with Python >= 3.11, pip and make. `make PYTHON=python3.12 test` chooses another interpreter.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
PACKAGES := envs agents experiments paper_figs
# What an editable install depends on: code is not copied, so only these ask for a new one.
INPUTS := pyproject.toml constraints.txt
TYPECHECK := build/typecheck
# Of the comparison of learners from logs: ten seeds in each market.
TEN := --seeds 0 1 2 3 4 5 6 7 8 9 --gradient-steps 0.5
MARKETS := sparse auctionnet auctionnet_sparse

ifneq ($(filter-out paper,$(PRESET)),)
$(error PRESET must be paper, got '$(PRESET)')
endif

.DEFAULT_GOAL := help
.PHONY: help run test lint format figures results-paper bench docs notebook outside clean

help:  ## what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/.installed  ## install, then train, tune, compare and draw (four to eight minutes on two cores)
	$(BIN)/adarena run autobid

test: $(VENV)/.installed-dev  ## install all that tests need, then run them
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.installed-dev  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check $(PACKAGES) tests examples docs
	@# The folders are packages of the namespace `adarena`; an editable install maps them by an import hook, which mypy
	@# cannot follow. Links in the layout that an installed copy has show it the same.
	@rm -rf $(TYPECHECK) && mkdir -p $(TYPECHECK)/adarena
	@for package in $(PACKAGES); do ln -s "$(CURDIR)/$$package" $(TYPECHECK)/adarena/$$package; done
	MYPYPATH=$(TYPECHECK) $(BIN)/mypy $(PACKAGES:%=-p adarena.%)

format: $(VENV)/.installed-dev  ## put style and format right where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format $(PACKAGES) tests examples docs

figures: $(VENV)/.installed $(if $(PRESET),results-$(PRESET))  ## redraw every figure from results; PRESET=paper first runs what is behind them (many hours)
	$(BIN)/adarena figures
	$(BIN)/adarena figures --results paper_figs/results/coldstart --out paper_figs/figures/coldstart
	$(BIN)/adarena figures --results paper_figs/results/lifecycle --out paper_figs/figures/lifecycle
	for r in $$(cd paper_figs/results && echo offline*); do \
	  $(BIN)/adarena figures --results paper_figs/results/$$r --out paper_figs/figures/$$r || exit 1; done
	$(BIN)/adarena figures --results paper_figs/results/explain --out paper_figs/figures/explain
	$(BIN)/adarena figures --results paper_figs/results/ope --out paper_figs/figures/ope

# What the committed results come from. A run that was killed goes on where it was; one that is done is not run again.
results-paper: $(VENV)/.installed
	for m in gsp first_price vcg; do \
	  $(BIN)/adarena run autobid --preset paper --mechanisms $$m --name paper-$$m --no-figures --resume || exit 1; done
	$(BIN)/adarena gather runs/paper-gsp runs/paper-first_price runs/paper-vcg
	$(BIN)/adarena bench --parts throughput --seconds 0.3 --repeats 8 --out runs/bench-throughput
	cp runs/bench-throughput/throughput.parquet paper_figs/results/autobid/throughput.parquet
	cp runs/bench-throughput/bench.json paper_figs/results/autobid/bench_throughput.json
	for e in coldstart lifecycle; do \
	  $(BIN)/adarena run $$e --name paper-$$e --no-figures --resume && $(BIN)/adarena gather runs/paper-$$e || exit 1; done
	$(BIN)/adarena run offline $(TEN) --settings 6 --name paper-offline --no-figures --resume
	$(BIN)/adarena gather runs/paper-offline
	$(BIN)/adarena explain runs/paper-offline --episode 3
	$(BIN)/adarena gather runs/paper-offline/explain/episode-3
	for p in $(MARKETS); do \
	  $(BIN)/adarena run offline --preset $$p $(TEN) --settings 4 --name paper-offline-$$p --no-figures --resume && \
	  $(BIN)/adarena gather runs/paper-offline-$$p --out paper_figs/results/offline_$$p || exit 1; done
	$(BIN)/adarena gather runs/paper-offline $(MARKETS:%=runs/paper-offline-%)
	$(BIN)/adarena run ope --preset smoke --name paper-ope --no-figures --resume --log-sizes 32 128 --replicates 4 \
	  --shifts -1 -0.4 -0.2 0 0.2 0.4 1 --truth-episodes 512 --gradient-steps 1000 --hidden 32 32 --resamples 200
	$(BIN)/adarena gather runs/paper-ope

bench: $(VENV)/.installed-dev  ## measure speed, Stable-Baselines3 included
	$(BIN)/adarena bench

docs: $(VENV)/.installed-docs  ## build the pages of docs/ into build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

notebook: $(VENV)/.installed-dev  ## execute docs/first_day.ipynb again, in place
	$(BIN)/python docs/run_notebook.py

outside: | $(BIN)/python  ## run docs/walkthrough.md from an installed wheel in a fresh virtual environment (a few minutes)
	$(BIN)/python examples/outside.py

clean:  ## remove what this file makes; runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "adarena needs Python >= 3.11; PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# A full install serves for less, so asking for less after it installs nothing.
$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	@if [ -e $(VENV)/.installed-dev ]; then $(MAKE) --no-print-directory $(VENV)/.installed-dev; \
	else $(BIN)/python -m pip install --quiet -c constraints.txt -e .; fi
	@touch $@

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@
