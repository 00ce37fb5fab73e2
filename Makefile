# Each goal creates .venv if it is missing or older than pyproject.toml or constraints.txt.
# Needs only Python >= 3.11 and make. To use another interpreter: make run PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-slow test-chaos check format clean

run: $(STAMP)
	$(BIN)/distiltune run quickstart

# Two processes, each running whole files: tests mostly wait. tests/conftest.py sets the order of the files.
# tests/test_house.py runs in `make check`.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/test_house.py

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/chaos

# CHAOS_MOMENTS=3: three moments of each fault in place of twenty.
test-chaos: $(STAMP)
	$(BIN)/python -m pytest -m slow tests/chaos

# The type checker finds the package `distiltune` by this link, whatever the checkout's directory is called.
check: $(STAMP)
	@mkdir -p $(VENV)/types && ln -sfn "$(CURDIR)" $(VENV)/types/distiltune
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "distiltune needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,test,dev,offline]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
