# make serve    set everything up and serve the bundled model on 127.0.0.1:8000
# make test     set everything up and run the tests (no GPU, no network)
# make check    lint, types, import direction, file lengths, freshness of the generated docs
# make help     every target

PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
MODEL  ?= nano
TORCH  ?= torch==2.13.0
JOBS   ?= 2
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev native serve test slow mutations selftest selftest-neon check format docs clean

help:
	@echo "make serve   set up, then serve $(MODEL) on http://$(HOST):$(PORT)  (HOST= PORT= MODEL= TORCH=)"
	@echo "make test    set up, then run the tests (about eight minutes on two cores; JOBS=)"
	@echo "make check   lint, types, import direction, file lengths, generated docs"
	@echo "make slow    the tests that do not fit into ten minutes"
	@echo "make mutations  every known failure planted: some test has to notice each"
	@echo "make native  build the C++ kernels again (setting up does it where there is a compiler)"
	@echo "make selftest       every kernel table this machine has against plain loops, in C++"
	@echo "make selftest-neon  the same for 64-bit ARM, under qemu"
	@echo "make format  rewrite the sources as ruff formats them"
	@echo "make docs    regenerate docs/cli.md"
	@echo "make clean   remove the virtual environment, the builds and the caches"

setup: $(VENV)/.ready $(VENV)/.native
setup-dev: $(VENV)/.ready-dev $(VENV)/.native

# One environment; the stamps say what it holds. A machine without an NVIDIA driver gets the
# release in TORCH, of which a CPU build may be at hand (TORCH= names another requirement or
# file); with a driver the newest build that pyproject.toml allows is taken.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11"; \
	    echo "hint: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "error: $(PYTHON) lacks its venv module"; \
	    echo "hint: install it (on Debian: python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(VENV)/bin/python
	@if command -v nvidia-smi >/dev/null 2>&1; then \
	  echo "NVIDIA driver found: installing the default build of torch"; \
	  $(BIN)/python -m pip install --quiet 'torch>=2.13,<3'; \
	else \
	  echo "no NVIDIA driver: installing $(TORCH)"; \
	  $(BIN)/python -m pip install --quiet '$(TORCH)'; \
	fi
	@touch $@

$(VENV)/.ready: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@ $(VENV)/.ready

# The C++ kernels stand in src/ and are built again when their sources change. There is no stamp
# without them: a machine that gets its compiler later builds them then.
$(VENV)/.native: CMakeLists.txt tools/native.sh $(shell find csrc -name '*.cpp' -o -name '*.h') \
                 | $(VENV)/.torch
	@if tools/native.sh $(abspath $(BIN)/python); then touch $@; \
	else echo "note: going on without the C++ kernels; dsv4 doctor says what runs instead"; fi

native: | $(VENV)/.torch
	tools/native.sh $(abspath $(BIN)/python)
	@touch $(VENV)/.native

# For the tables of csrc/ alone: no Python, no torch.
selftest:
	tools/selftest.sh

selftest-neon:
	tools/selftest.sh neon

serve: setup
	$(BIN)/dsv4 serve $(MODEL) --host $(HOST) --port $(PORT)

# Tests start many processes; without bytecode each would compile the package again. (Empty is
# as good as unset.)
test slow: export PYTHONDONTWRITEBYTECODE =

# Files as they are collected: sorted by their number of tests, those of few long ones would come
# last, and one process would wait for the other.
test: setup-dev
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

slow: setup-dev
	$(BIN)/python -m pytest -m slow $(ARGS)

mutations: setup-dev
	$(BIN)/python -m tools.mutations

check: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/line_budget.py
	$(BIN)/python tools/cli_reference.py --check

format: setup-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup-dev
	$(BIN)/python tools/cli_reference.py

clean:
	rm -f src/dsv4/ops/cpu/_native.*.so
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
