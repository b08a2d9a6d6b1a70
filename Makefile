# `make` alone lists the targets. Only Python, make and a network are needed.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-test demo up test acceptance crash crash-all setup-bench bench bench-large setup-mutants mutants lint format lock clean

BIN := .venv/bin
CLEAN := sh scripts/clean_env.sh
# More for pytest (make test ARGS="-k ledger"), onboard demo or uv (make lock ARGS=--upgrade).
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with the project and its locked dependencies (PYTHON=... chooses the interpreter)
	@sh scripts/install.sh run

setup-test:
	@sh scripts/install.sh test

demo: setup ## set up, then show the whole product on this machine alone
	@$(CLEAN) $(BIN)/onboard demo $(ARGS)

up: setup ## set up, then run everything on this machine until Ctrl-C: page, schedules, stand-ins (ARGS="--port 4300")
	@$(BIN)/onboard up $(ARGS)

test: lint ## set up, check style and types, run all tests but the acceptance ones
	@$(CLEAN) $(BIN)/python -m pytest --numprocesses 3 --dist loadgroup --ignore tests/acceptance $(ARGS)

acceptance: setup-test ## whole journeys: the demo, two doors at once, the search for personal data
	@$(CLEAN) $(BIN)/python -m pytest tests/acceptance -o faulthandler_timeout=600 $(ARGS)

KILLS ?= 5000
SEED ?= 1
PART ?= 1/1

crash: setup-test ## kill runners at random: KILLS=5000 SEED=1, ARGS=--postgres for PostgreSQL
	@$(CLEAN) $(BIN)/python -m tests.crash.volume --kills $(KILLS) --seed $(SEED) $(ARGS)

crash-all: setup-test ## kill a runner at every boundary after every fault, and twice: for hours; PART=2/8 runs an eighth
	@$(CLEAN) env CRASH_ALL=$(PART) $(BIN)/python -m pytest tests/crash/test_enumeration.py -o faulthandler_timeout=0 $(ARGS)

setup-bench:
	@sh scripts/install.sh bench

bench: setup-bench ## measure this project beside others, in .venv-bench: ARGS="--rounds 1 --only limit,bare"
	@$(CLEAN) .venv-bench/bin/python -m benchmarks $(ARGS)

setup-mutants:
	@sh scripts/install.sh mutants

mutants: setup-mutants ## change the code that decides about effects, see which changes no test notices: ARGS="'onboarding.keys*'"
	@$(CLEAN) .venv-mutants/bin/python -m tests.mutants $(ARGS)

bench-large: setup-bench ## measure one batch of 50,000 subjects: ARGS="--subjects 5000" for fewer
	@$(CLEAN) .venv-bench/bin/python -m benchmarks.large $(ARGS)

lint: setup-test ## check style and types
	$(CLEAN) $(BIN)/ruff check .
	$(CLEAN) $(BIN)/ruff format --check .
	$(CLEAN) $(BIN)/mypy

format: setup-test ## put the code into its standard form
	@$(CLEAN) $(BIN)/ruff check --fix-only --quiet .
	@$(CLEAN) $(BIN)/ruff format .

# Universal: one file for every Python and system that is supported. No index is named, so that each installation
# uses the one it is configured for. Pins that still fit are kept; ARGS=--upgrade takes the newest.
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --only-binary :all: --no-emit-index-url --no-emit-find-links $(ARGS)

lock: setup ## resolve the dependencies of pyproject.toml into requirements/*.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --only-binary :all: uv
	@$(COMPILE) pyproject.toml requirements/build.in --output-file requirements/run.txt
	@$(COMPILE) pyproject.toml requirements/build.in --group test --constraint requirements/run.txt \
		--output-file requirements/test.txt
	@$(COMPILE) pyproject.toml requirements/build.in --group bench --constraint requirements/run.txt \
		--output-file requirements/bench.txt
	@$(COMPILE) pyproject.toml requirements/build.in --group test --group mutants --constraint requirements/test.txt \
		--output-file requirements/mutants.txt

clean: ## remove .venv and everything that tools left behind
	@rm -rf .venv .venv-bench .venv-mutants mutants build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
