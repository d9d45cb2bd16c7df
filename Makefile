# Everything that a person or a machine runs here. `make help` lists it.
PYTHON ?= python3
VENV   ?= .venv
RUN    ?= configs/run/quickstart.yaml
PYTEST_ARGS ?=
BENCH  ?= *
JOBS   ?= 2
MINUTES ?= 10
SEED   ?= 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := rayllm jobs tests benchmarks .ci
# No compiler is needed or wanted: DeepSpeed stays pure Python, nothing is built when it runs on CPUs.
export DS_BUILD_OPS := 0

.DEFAULT_GOAL := help
.PHONY: help quickstart install install-dev check lint unit test test-all safety soak bench lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.runtime ## install what is locked, then run a whole small training on this machine
	@$(BIN)/rayllm run $(RUN)

install: $(VENV)/.runtime ## the environment to run in
install-dev: $(VENV)/.dev ## the environment to develop in

# Build tools first and no build isolation: the two packages built here use the locked setuptools.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: make quickstart PYTHON=python3.11")'
	@echo "installing the locked packages into $(VENV): a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@grep -E '^(setuptools|wheel)==' requirements.lock > $(VENV)/build.lock
	@$(PIP) install -q -r $(VENV)/build.lock
	@$(PIP) install -q --no-build-isolation -r requirements.lock
	@$(PIP) install -q --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "installing the locked tools of development"
	@$(PIP) install -q --no-build-isolation -r requirements-dev.lock
	@touch $@

check: lint unit ## style, types, import layers, unit tests: before every commit

lint: $(VENV)/.dev ## style, types, import layers
	$(BIN)/ruff format --check $(wildcard $(CODE))
	$(BIN)/ruff check $(wildcard $(CODE))
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# Two processes: many tests fork ranks of their own, and memory bounds what runs at once. Each takes half of the list and
# then from the other's end, so what a file's tests share is made in one of them.
unit: $(VENV)/.dev ## the default tests that need no Ray
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not ray and not gpu and not slow" $(PYTEST_ARGS)

test: unit ## the default tests, the handful on a real Ray included
	$(BIN)/python -m pytest -m "ray and not gpu and not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## the slow ones too
	$(BIN)/python -m pytest -m "not gpu" $(PYTEST_ARGS)

safety: $(VENV)/.dev ## what comes back when trials of a sweep are stopped, killed and interrupted, as a table
	$(BIN)/python -m pytest -q -n0 -m ray $(addprefix tests/pipelines/tune/test_,execute.py population.py safety.py)

soak: $(VENV)/.dev ## a training under random kills for MINUTES=10 ends in the bits of the unbroken run
	PYTHONPATH=tests/support$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python tests/soak.py --minutes $(MINUTES) --seed $(SEED)

bench: $(VENV)/.dev ## every benchmark, one after the other (hours); BENCH=encode: that one
	for script in benchmarks/$(BENCH).py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lock: $(VENV)/.runtime ## resolve the dependencies anew and write the lock files
	$(BIN)/python .ci/lock.py

clean: ## caches and build leftovers; never runs/ or the environment
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
