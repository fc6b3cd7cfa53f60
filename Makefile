# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: demo test lint clean

demo: $(VENV)/demo
	@$(BIN)/python examples/quickstart.py

# Two processes, each with whole files. WORKERS= runs them in one.
WORKERS ?= --numprocesses 2 --dist loadfile

test: $(VENV)/test
	$(BIN)/pytest $(WORKERS)

# Linters and types, as .ci/run calls them.
lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) dist

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "keras_he needs Python 3.10 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python has no venv. On Debian: apt install python3-venv"; exit 1; }
	@touch $@

# One set of packages for each purpose; a mark says that it is installed.
$(VENV)/demo $(VENV)/test $(VENV)/dev: $(VENV)/%: $(VENV)/python pyproject.toml
	@echo "Installing keras_he with TensorFlow into $(VENV) (a minute or two the first time) ..."
	@$(BIN)/python -m pip install --quiet -e '.[tensorflow,$(if $(filter demo,$*),examples,$*)]'
	@touch $@
