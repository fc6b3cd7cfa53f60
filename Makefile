# Commands for a newcomer: `make demo`, `make test`, `make test-all`. Each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: demo test test-rest test-all lint clean

demo: $(VENV)/demo
	@$(BIN)/python examples/quickstart.py

# Two processes, each with whole files. WORKERS= runs them in one.
WORKERS ?= --numprocesses 2 --dist loadfile

# Some of every module's tests, the mutants among them: five minutes on two idle cores.
test: $(VENV)/test
	$(BIN)/pytest $(WORKERS) -m "not slow"

# What `make test` leaves out.
test-rest: $(VENV)/test
	$(BIN)/pytest $(WORKERS) -m slow

test-all: test test-rest

# Linters and types, as .ci/run and .pre-commit-config.yaml call them.
lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/validate-pyproject pyproject.toml

clean:
	rm -rf $(VENV) dist

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "keras_he needs Python 3.10 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python has no venv. On Debian: apt install python3-venv"; exit 1; }
	@touch $@

# One set of packages for each purpose; a file says that it is installed. pip 25.1 reads groups.
EXTRA_demo := examples
EXTRA_test := test
EXTRA_dev := test
GROUP_dev := --group dev
$(VENV)/demo $(VENV)/test $(VENV)/dev: $(VENV)/%: $(VENV)/python pyproject.toml
	@echo "Installing keras_he with TensorFlow into $(VENV) (a minute or two the first time) ..."
	@$(if $(GROUP_$*),$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1')
	@$(BIN)/python -m pip install --quiet -e '.[tensorflow,$(EXTRA_$*)]' $(GROUP_$*)
	@touch $@
