# Every target makes the virtual environment first when it is missing or older than what it is made from.
#
#   PYTHON=...       the interpreter to make .venv with (default: the first of 3.11 or newer that can)
#   TORCH_INDEX=...  a wheel index to take torch from, for instance PyTorch's CPU wheels (default: none)
#   PROCESSES=...    how many processes run tests at once (default: 2)
#   ARGS=...         more arguments for pytest, `psrv demo`, `psrv bench` or the search of `make fuzz`

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
TYPED := build/typed
SOURCES := psrv worker server codec
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
    if $$p -c '$(USABLE)' 2>/dev/null; then echo $$p; break; fi; done)
PROCESSES ?= 2
ARGS ?=

.PHONY: help venv demo test test-matrix test-learning test-docker fuzz lint bench check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

venv: $(STAMP) ## make .venv with psrv (editable), torch, scikit-learn and the tools

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(USABLE)' 2>/dev/null; then \
	    if [ -z "$(PYTHON)" ]; then \
	        echo "make venv: found no Python 3.11 or newer with its venv module;" \
	            "install one (on Debian: python3 python3-venv) or name it: make venv PYTHON=..." >&2; \
	        exit 1; \
	    fi; \
	    rm -rf $(VENV); \
	    $(PYTHON) -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[torch,learn,dev]'
	@touch $@

demo: $(STAMP) ## train four ways on real data, show them side by side, write runs/demo/report.html
	$(BIN)/psrv demo $(ARGS)

test: $(STAMP) ## unit, property, wire, process and fault tests (under ten minutes)
	$(BIN)/python -m pytest -n $(PROCESSES) $(ARGS)

test-matrix: $(STAMP) ## launch and simulate agree bit for bit: every method, 1, 2, 4 and 7 workers
	$(BIN)/python -m pytest -m matrix $(ARGS)

test-learning: $(STAMP) ## train to the papers' accuracies on MNIST and a9a (needs PSRV_DATA; half an hour)
	$(BIN)/python -m pytest -m learning -s $(ARGS)

test-docker: $(STAMP) ## build the images and bring the compose file up (needs a Docker engine)
	PSRV_TEST_DOCKER=1 $(BIN)/python -m pytest -m docker $(ARGS)

# Atheris is in no environment that `make venv` makes: only this target needs it.
fuzz: $(STAMP) ## search for bytes that hurt a receiver, a minute in each of three ways
	@$(BIN)/python -c 'import atheris' 2>/dev/null \
	    || $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

# mypy checks the package as it installs, then names files as they stand in the repository. build/ goes
# first because setuptools would carry deleted modules over from it.
lint: $(STAMP) ## ruff, and mypy (strict where pyproject.toml says so)
	$(BIN)/ruff check .
	@rm -rf build
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation \
	    --target $(TYPED) .
	MYPYPATH=$(TYPED) $(BIN)/mypy -p psrv \
	    | sed -E 's,^$(TYPED)/(psrv/(codec|server|worker)/|),\1,; s,^psrv/(codec|server|worker)/,\1/,'

bench: $(STAMP) ## measure every compressor beside this machine's memcpy, NumPy and torch
	$(BIN)/psrv bench $(ARGS)

check: lint test ## what has to pass before a commit; CI runs it

clean: ## remove what was built; .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
