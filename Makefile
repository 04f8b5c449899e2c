# Each target says what it does; `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
comma := ,
export APPLIANCE_HOME ?= $(CURDIR)/var

.DEFAULT_GOAL := help
.PHONY: help setup run fmt lint types arch lock openapi check test test-all test-gpu campaign bench-launch bench-gateway bench-placement migrate compile interpreted package clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/.stamp: requirements/runtime.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed (found $$($(PYTHON) --version)); set PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/runtime.lock -r requirements/build.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp requirements/dev.lock
	@echo "installing the development tools ..."
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.lock
	@touch $@

setup: $(VENV)/.stamp ## make the virtual environment of the control plane

dev: $(VENV)/.stamp-dev ## the same with the tools for tests and checks

run: setup ## start the appliance in the foreground with the demo model
	@APPLIANCE_DEMO=$${APPLIANCE_DEMO-1} exec $(BIN)/appliance run

fmt: dev ## format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

lint: dev ## ruff, formatting included
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check .

types: dev ## mypy, strict
	@$(BIN)/mypy && $(BIN)/mypy --config-file images/mypy.ini

arch: dev ## import directions
	@$(BIN)/lint-imports --cache-dir .import_linter_cache

openapi: dev ## write docs/openapi/*.json from the routes
	@$(BIN)/python -m appliance.api.document docs/openapi

check: lint types arch ## everything that needs no run: lint, types, imports, the OpenAPI documents
	@$(BIN)/python -m appliance.api.document --check docs/openapi

# Tests side by side, then those that need the machine for themselves; all of them, whatever fails.
define run_tests
@$(1) $(BIN)/python tools/run_tests.py --workers $(WORKERS)
endef

test: dev ## the tests that a bare machine can run; the others say why they are skipped (WORKERS=2 at a time)
	$(call run_tests)

test-all: dev ## every test; Docker, PostgreSQL, the engines, Node and nginx are required
	$(call run_tests,APPLIANCE_TEST_REQUIRE=docker$(comma)postgres$(comma)engines$(comma)node$(comma)nginx)

bench-launch: dev ## what is ours between the create request and the first token
	@$(BIN)/python -m bench.launch

bench-gateway: compile ## the gateway beside nginx, Envoy, vllm-router and LiteLLM (ARGS="--only appliance,envoy --rounds 3")
	@$(BIN)/python -m bench.gateway $(ARGS)

bench-placement: dev ## placement's speed, beside an exact solver and other policies (ARGS="--only speed --json")
	@$(BIN)/python -m bench.placement $(ARGS)

test-gpu: dev ## the vendors' contract suite against the devices of this machine; they are required
	@APPLIANCE_TEST_REQUIRE=gpu $(BIN)/pytest -m gpu tests/gpu

campaign: dev ## the long runs: pairs of crash points, many kills; seeded, recorded in docs/campaigns (ARGS="--worker-kills 1000 ...")
	@$(BIN)/python -m tests.campaign $(ARGS)

migrate: setup ## bring the database to this release's schema
	@$(BIN)/appliance migrate

compile: dev ## compile the gateway's request path to machine code, in place; gcc and Python's headers are needed
	@$(BIN)/python tools/compile.py

interpreted: dev ## remove what was compiled, so that the sources run
	@$(BIN)/python tools/compile.py --remove

package: compile ## build this platform's wheel, with compiled gateway, configuration, migrations and runtimes inside
	@$(BIN)/python -m hatchling build --target wheel

lock: dev ## resolve the lock files anew
	@$(BIN)/python tools/lock.py

clean: ## remove what was built (never the data under APPLIANCE_HOME)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
