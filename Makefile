# Every target sets up what it lacks first (scripts/setup.sh); when nothing is missing that takes a fraction of a second.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
ACTIVATE := . scripts/activate

.PHONY: help setup demo test test-fast lint format soak bench compile abi lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## Install what is missing, nothing else
	@$(ACTIVATE)

demo: ## Run the market on this machine: two providers, the gateway, a kill; KEEP=1 stays up
	@$(ACTIVATE); python -m scripts.demo

test: ## All tests; what .ci/run runs
	@$(ACTIVATE); python scripts/run_tests.py

test-fast: ## The tests of protocol, provider and consumer, without slow ones
	@$(ACTIVATE); python scripts/run_tests.py --fast

soak: ## Long fault runs
	@$(ACTIVATE); python scripts/run_tests.py --soak

lint: ## ruff, mypy --strict, vyper, shell and lock checks
	@$(ACTIVATE); bash scripts/lint.sh

format: ## Rewrite Python files as ruff lays them out
	@$(ACTIVATE); ruff check --fix --quiet . || true; ruff format .

bench: ## Run one benchmark: make bench BENCH=name; without a name, list them
	@$(ACTIVATE); python -m scripts.bench $(BENCH)

compile: ## Compile the contracts into .build/
	@$(ACTIVATE); ape compile

abi: ## Compile, then write protocol/abi/*.json
	@$(ACTIVATE); ape compile && python -m scripts.export_abis

lock: ## Rewrite the locks from requirements/*.in and package.json (UPGRADE=1: newest versions)
	@$(ACTIVATE); bash scripts/lock.sh

clean: ## Remove what set-up and the tools made in this folder
	rm -rf .venv .uv .stamps .solcx .ape .build .cache .test-results .hypothesis .mypy_cache .pytest_cache .ruff_cache node_modules *.egg-info
