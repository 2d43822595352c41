# `make help` lists the targets. On a fresh machine, Python 3.11+ and make are enough: .venv is made on demand.
PYTHON  ?= python3
WORKERS ?= 2

BIN   := .venv/bin
SETUP := .venv/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test slow check fmt bench mutants docs data clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP) ## Create .venv with everything development needs

run: $(SETUP) ## The main job: evaluate, sample and train the bundled model (out/demo)
	$(BIN)/python runs/demo.py --out out/demo

test: check ## check, then the test suite without its slow part
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

slow: $(SETUP) ## The slow part of the test suite
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

check: $(SETUP) ## Lint, format and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fmt: $(SETUP) ## Apply the formatter and the safe lint fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(SETUP) ## Run every benchmark, with results as JSON in out/bench
	@mkdir -p out/bench
	@set -e; for script in benchmarks/[a-z]*.py; do \
		[ -e "$$script" ] || continue; \
		[ "$$script" != benchmarks/mutants.py ] || continue; \
		echo "== $$script"; \
		$(BIN)/python "$$script" --out "out/bench/$$(basename "$$script" .py).json"; \
	done

mutants: $(SETUP) ## Change the source in 40 places, one at a time; print what the nearest tests miss
	$(BIN)/python benchmarks/mutants.py --count 40 --seed 0

docs: .venv/.installed-docs ## Build the documentation (docs/_build/html)
	$(BIN)/sphinx-build -W docs docs/_build/html

data: $(SETUP) ## Fetch CIFAR-10 into data
	$(BIN)/nelbo data cifar10 --out data

clean: ## Remove what was built; keeps .venv, data and out
	rm -rf build dist docs/_build src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests runs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "nelbo needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
			"Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.installed-docs: $(SETUP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@
