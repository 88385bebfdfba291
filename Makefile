SHELL := /bin/bash
BIN := .venv/bin
PORT ?= 8000
FRONT_END_PORT ?= $(shell expr $(PORT) + 1)
CHECKED := django_ws tests example_project benchmarks
# Much of a test's time is waiting: one more at once than there are cores.
WORKERS ?= $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo quick test bench faults clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: ## Serve the example project at http://127.0.0.1:8000 and 8001 (PORT=... for other ports)
	scripts/make-venv .venv demo
	$(BIN)/python example_project/manage.py migrate --verbosity 0
	$(BIN)/python example_project/manage.py createdemousers
	exec scripts/demo $(PORT) $(FRONT_END_PORT)

quick: ## Check the code and run the unit tests, in less than a minute
	scripts/make-venv .venv dev,demo
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CHECKED)
	$(PYTEST) tests/unit

test: ## Check and test everything, on two Pythons where the machine has them
	scripts/make-venv .venv dev,demo
	scripts/install-system-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_pragmas.py
	$(BIN)/mypy $(CHECKED)
	$(BIN)/lint-imports --no-logo
	rm -f .coverage .coverage.*
	$(PYTEST) --cov
	WORKERS=$(WORKERS) scripts/test-other-python

bench: ## Measure speed and memory beside other frameworks
	scripts/make-venv .venv dev,demo
	scripts/install-system-packages
	$(BIN)/python -m benchmarks

faults: ## Run the freezes, fuzzing and soaks that `make test` leaves out
	scripts/make-venv .venv dev,demo
	scripts/install-system-packages
	$(BIN)/python -m pytest -m faults --timeout 900 --hypothesis-profile faults

clean: ## Remove everything that the other commands made
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* tests/.tmp .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache example_project/*.sqlite3
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
