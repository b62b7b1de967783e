# Each target makes its own environment in .venv if it is not there; nothing else is needed on Linux with Python 3.11.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# A run of verl waits half of its time for one process to start another: two fit on two cores.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-unit lint format clean

demo: $(INSTALLED)
	$(BIN)/verl-mars demo $(ARGS)

test: $(INSTALLED)
	$(PYTEST) $(ARGS)

test-unit: $(INSTALLED)
	$(PYTEST) tests/contract tests/unit $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --no-compile: Python compiles what it imports; compiling all of torch and ray up front takes a minute.
$(INSTALLED): pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -e ".[cpu,dev]" -c constraints/cpu.txt
	touch $@

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache
