# Everything a fresh Linux machine with python3, make and git needs. `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
RUN := $(VENV)/bin
SOURCES := flows gigagan_core tests benchmarks
# Processes that share the tests, file by file, in the order of tests/conftest.py: xdist's own would leave the files with
# the fewest and longest tests to the end. One thread of torch each: two that ask for all cores hold each other up. Tests of flows come after them in one
# process: each process would start a `gigagan ui` of its own.
WORKERS ?= 2
QUICK := not slow and not gpu and not stack and not browser

.PHONY: help install demo ui stack test test-slow e2e lint format lock bench clean clean-data

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.installed: requirements.lock requirements-bootstrap.lock pyproject.toml infra/install.sh
	@sh infra/install.sh

install: $(VENV)/.installed  ## the environment in .venv, from the hash-pinned lock

demo: install  ## the whole pipeline on real images: data, two encoders, two GANs, a report
	@$(RUN)/gigagan pipeline --preset demo

ui: install  ## the Prefect and MLflow pages of this folder's runs
	@$(RUN)/gigagan ui

stack: install  ## PostgreSQL, Prefect and a worker, MLflow, S3 and Ray as processes of this machine
	@$(RUN)/gigagan stack up

test: install  ## every test that needs no GPU, server or browser and is not slow
	@OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	    --ignore tests/flows -m "$(QUICK)"
	@$(RUN)/python -m pytest tests/flows -m "$(QUICK)"

test-slow: install  ## the slow rest
	@$(RUN)/python -m pytest -m "slow and not gpu and not stack and not browser"

e2e: install  ## tests with real servers and a browser
	@$(RUN)/python -m pytest -m "(stack or browser) and not gpu"

lint: install  ## style, formatting, that the lock is clean, static checks of infra/
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/python infra/check_lock.py
	@$(RUN)/python infra/check.py

format: install  ## let ruff mend style and formatting
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .

lock: install  ## resolve pyproject.toml into requirements.lock anew (asks the package index)
	@UV=$$(command -v uv || echo .venv-bootstrap/bin/uv); \
	$$UV pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --extra dev --python-version 3.11 pyproject.toml --output-file requirements.lock

bench: install  ## benchmarks, next to peers; results in benchmarks/results/
	@for script in benchmarks/bench_*.py; do [ -e "$$script" ] || continue; $(RUN)/python "$$script" || exit 1; done

clean:  ## remove the environment and caches; .gigagan (your artifacts and records) stays
	@rm -rf $(VENV) .venv-bootstrap build *.egg-info .pytest_cache .ruff_cache
	@find flows gigagan_core tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -d .gigagan ]; then echo "kept .gigagan (artifacts and records); 'make clean-data' removes it"; fi

clean-data:  ## remove .gigagan: every artifact and record made here
	@rm -rf .gigagan
