# Every target sets itself up in .venv; nothing else is needed than Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
REPLAY ?= --replay

.DEFAULT_GOAL := help
.PHONY: help serve demo test test-chaos test-gpu lint format bench bench-forecast bench-search bench-service engines clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

serve: $(INSTALLED)  ## Pages and API on http://127.0.0.1:8000, with a worker beside them
	$(BIN)/autotune serve

demo: $(INSTALLED)  ## Tune a real model on this machine, in a few minutes
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo

test: $(INSTALLED)  ## All tests that need no GPU
	$(BIN)/python -m pytest -m "not gpu and not chaos"

test-chaos: $(INSTALLED)  ## Kill the driver at random moments, twenty times over
	$(BIN)/python -m pytest -m chaos

test-gpu: $(INSTALLED)  ## The tests that need a CUDA device; what trained there goes to benchmarks/results/gpu_engines.json
	$(BIN)/python -m pytest -m gpu

lint: $(INSTALLED)  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-service: $(INSTALLED)  ## The server with a thousand jobs on PostgreSQL
	$(BIN)/python benchmarks/service.py

bench: $(INSTALLED)  ## The figures in benchmarks/, measured here
	$(BIN)/python benchmarks/probe_overhead.py

bench-forecast: $(INSTALLED)  ## The forecast against recorded traces and probes, published tables, the clock; REPLAY= records anew
	$(BIN)/python benchmarks/forecast_published.py
	$(BIN)/python benchmarks/planner.py
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/forecast_against_trace.py $(REPLAY)
	$(BIN)/python benchmarks/forecast_against_probes.py $(REPLAY)

bench-search: $(INSTALLED)  ## Samplers beside each other, replayed on tables of measured configurations
	$(BIN)/python benchmarks/search_efficiency.py

engines: $(INSTALLED)  ## Write docs/engines.md anew: what each engine runs
	PYTHONPATH=tests:tests/trials $(BIN)/python tests/trials/matrix.py > docs/engines.md

clean:  ## Remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
