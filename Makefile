# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test lint types imports clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Run the whole job on calibration_data/, into demo-output/.
	$(BIN)/convcal demo --force -o demo-output

test: $(VENV)/.installed-test ## Run the tests.
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-lint ## Check style and formatting.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-lint ## Check the types.
	$(BIN)/mypy

imports: $(VENV)/.installed-lint ## Check the import fences.
	$(BIN)/lint-imports

clean: ## Remove the environment and what the demo made.
	rm -rf $(VENV) demo-output

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --editable '.[all]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --group test
	touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(PIP) install --quiet --group lint
	touch $@
