# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 to 3.13; PYTHON chooses another.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# In the order of tests/conftest.py: the longest first.
PARALLEL = --numprocesses 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test slow lint format notebooks clean

demo: $(VENV)/installed
	$(BIN)/kcvl demo

test: $(VENV)/installed-test lint
	$(BIN)/pytest $(PARALLEL)

# Some tests need two devices, the rest runs on what a user has (tests/conftest.py).
slow: $(VENV)/installed-test
	$(BIN)/pytest -m "slow and replicas" $(PARALLEL)
	$(BIN)/pytest -m "slow and not replicas" $(PARALLEL)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/installed-test
	$(BIN)/python tools/run_notebooks.py

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and 'Python 3.11 to 3.13 is needed; try make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
