# Two commands on a fresh machine: `make bench` and `make test`.  Both make .venv first, with what constraints.txt pins.

PYTHON ?= python3
BUDGET_S ?= 1500
OUT ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin

define MACHINE
import platform, sys
python, machine = sys.version_info[:2], (sys.platform, platform.machine())
fits = (3, 10) <= python < (3, 15) and machine == ("linux", "x86_64")
advice = "gpucnn needs Python 3.10 to 3.14 on Linux x86-64; this is Python %d.%d on %s %s; try make PYTHON=python3.12"
sys.exit(0 if fits else advice % (python + machine))
endef
export MACHINE

# `make gpu` installs nothing, so that it works where nothing can be: it finds the folders under their import names.
define PACKAGES
import importlib.util, sys
needed = "hypothesis numpy pandas pytest rich torch typer".split()
missing = [name for name in needed if importlib.util.find_spec(name) is None]
advice = "make gpu needs a Python with %s; after make test: make gpu PYTHON=.venv/bin/python"
sys.exit(advice % ", ".join(missing) if missing else 0)
endef
export PACKAGES

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: bench
bench: .venv/.installed ## compare the strategies on this machine's best device: the suite `smoke`
	@$(BIN)/gpucnn bench smoke

.PHONY: test
test: lint types ## lint, types and tests; needs no GPU
	@$(BIN)/pytest -q -n auto --dist worksteal

.PHONY: lint
lint: .venv/.installed ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: .venv/.installed ## let ruff put the format right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: .venv/.installed ## pyright on kernels, reference and bench
	@$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: gpu
gpu: ## tests, verification and suites on a GPU, by PYTHON as it is; BUDGET_S=seconds, OUT=folder for an archive
	@$(PYTHON) -c "$$PACKAGES"
	@mkdir -p build/path/gpucnn && ln -sfn $(addprefix $(CURDIR)/,kernels reference bench) build/path/gpucnn/
	@PYTHONPATH=$(CURDIR)/build/path $(PYTHON) -m gpucnn.bench.gpu --budget-s $(BUDGET_S) $(if $(OUT),--out $(OUT))

.PHONY: example
example: .venv/.installed ## filters, and an image pipeline, over photographs: docs/feature_maps.png, cupy_pipeline.png
	@$(BIN)/python examples/filters.py --out docs/feature_maps.png
	@$(BIN)/python examples/cupy_pipeline.py --out docs/cupy_pipeline.png
	@$(BIN)/python examples/resnet_digits.py

.PHONY: report
report: .venv/.installed ## put the committed records' plot and table into README.md
	@$(BIN)/python -m gpucnn.bench.readme README.md

.PHONY: strategies
strategies: .venv/.installed ## count the strategies: figures and tables of docs/strategies.md and memory.md
	@$(BIN)/python docs/figures.py docs/figures
	@$(BIN)/python docs/strategies.py

.PHONY: planted
planted: .venv/.installed ## plant bugs in the kernels: the table of what notices them in docs/emulator.md
	@$(BIN)/python tests/emulator/planted.py docs/emulator.md

.PHONY: clean
clean: ## remove .venv, builds and caches
	@rm -rf .venv build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

# Without its stamp .venv is new or half made, and made afresh; with one that is out of date, it is brought up to date.
.venv/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo 'There is no $(PYTHON) here; try make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c "$$MACHINE"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'Python has no venv module here; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'Setting up .venv: a minute or more, some gigabytes.'
	@[[ -e $@ ]] || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' || \
		{ echo 'The set-up broke off: the reason stands above; the same command starts it again.' >&2; exit 1; }
	@touch $@
