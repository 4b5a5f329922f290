# Every target creates what it needs; nothing has to be installed or activated beforehand.
#   make demo   the main job on the embedded data, from search to a measured answer
#   make test   lint, types, all tests but those for a GPU or the night

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

DEMO_ARGS ?= --out runs/demo
# TensorRT-RTX comes for x86-64 Linux alone, and builds engines there without a GPU.
ifeq ($(shell uname -sm),Linux x86_64)
DEMO_ENGINES := --engine tensorrt-rtx --gpu-arch sm86,sm89
else
DEMO_ENGINES :=
endif

# One thread a worker, so that JOBS workers share the cores instead of fighting for them.
# loadgroup: tests that share an expensive fixture stay in one worker (tests/helpers/work_units.py).
# A worker that dies ends the run: replaced, it can leave the others waiting for ever.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadgroup --max-worker-restart 0

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install-demo install demo test check lint types format fast slow nightly gpu clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install-demo: $(VENV)/.installed-demo ## Install what the demo needs, nothing more

install: $(VENV)/.installed-dev ## Install everything that the checks and tests need

demo: $(VENV)/.installed-demo ## Run the main job
	@$(if $(DEMO_ENGINES),,echo "No engines are built: TensorRT-RTX comes for x86-64 Linux alone.")
	$(BIN)/dmcp-deploy prune --model mobilenet_v2 --flops 211M $(DEMO_ENGINES) $(DEMO_ARGS)

test: check ## Lint, types, fast tests, slow tests
	$(PYTEST) -m "not gpu and not nightly" --timeout 900 --durations 20

check: lint types ## Lint, import directions and types, as pre-commit does

lint: $(VENV)/.installed-dev ## Lint and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev ## Static types
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format, and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

fast: $(VENV)/.installed-dev ## Tests that take seconds
	$(PYTEST) -m "not slow and not gpu and not nightly" --timeout 180 --durations 5

slow: $(VENV)/.installed-dev ## Tests that take minutes
	$(PYTEST) -m "slow and not gpu and not nightly" --timeout 900 --durations 10

nightly: $(VENV)/.installed-dev ## Tests that take too long for every change; each says why
	$(PYTEST) -m "nightly and not gpu" --timeout 1800 --durations 20

gpu: $(VENV)/.installed-dev ## Needs a CUDA device: is the search worth it (10 minutes), its tests, measurements
	$(BIN)/python benchmarks/worth/d4_duo100.py --stage search --seconds 320
	$(BIN)/python benchmarks/worth/d4_duo100.py --stage train --seconds 250
	$(BIN)/pytest -m gpu --timeout 900
	$(BIN)/python benchmarks/gpu.py --out benchmarks/results
	$(BIN)/python benchmarks/step_cost.py --width-mult 1.5
	$(BIN)/python benchmarks/step_cost.py --model resnet50

clean: ## Remove runs and caches, and keep the environment
	rm -rf runs build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The environment. A stamp is older than pyproject.toml when it has to be renewed; pip then keeps
# every installed version that still fits. `dev` holds all that `demo` does, and says so.
$(BIN)/pip:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/pip
	@$(call install,demo)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@$(call install,dev)
	@touch $@ $(VENV)/.installed-demo

# -qq: errors only, the notes of pip on its sources are of no use here.
install = echo "Installing dmcp-deploy[$(1)] into $(VENV) (some minutes the first time) ..." && \
	$(BIN)/pip install -qq --no-input --disable-pip-version-check --editable ".[$(1)]"
