# `make demo` runs the demo and `make test` the tests. `make docs` builds the documentation site, and `make package` builds the
# wheel and tests it in an empty environment. Each command makes its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000

.PHONY: demo test lint types tests slow-test gpu-test docs linkcheck package benchmark oldest clean-venv

demo: $(VENV)/user
	$(RUN) $(BIN)/anyorder demo --out demo

test: lint types tests

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

tests: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# What takes long: notebooks, the documentation site, trainings that are killed, several processes. Part of no other target.
slow-test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow

# The tests of devices on a GPU, with denoisers in two dtypes, compared with the CPU. DEVICE="cuda:1" takes another GPU.
DEVICE ?= cuda
gpu-test: $(VENV)/dev
	for dtype in float32 bfloat16; do \
	    ANYORDER_TEST_DEVICE=$(DEVICE) ANYORDER_TEST_DTYPE=$$dtype OMP_NUM_THREADS=1 \
	    $(BIN)/pytest -m "slow or not slow" tests/test_fake_device.py tests/test_device*.py || exit 1; \
	done

docs: $(VENV)/docs
	$(BIN)/python docs/recipe_page.py
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Checks every address in the docs; needs a network.
linkcheck: $(VENV)/docs
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

package: $(VENV)/dev
	PIP_TORCH='$(PIP_TORCH)' $(BIN)/python tools/check_package.py

# The tests with the oldest dependencies that pyproject.toml allows, but for those that start many processes or a browser.
# torch is the one of the constraints; OLDEST_TORCH="torch==2.9.0" takes its oldest version, a CUDA build of several GB.
OLDEST := .venv-oldest
OLDEST_TORCH ?= -c constraints.txt torch
LEFT_OUT := browser fuzz nodes notebooks package processes reproduce serving_page site
oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_TORCH) $(OLDEST_TORCH)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip compile --quiet --python $(OLDEST)/bin/python --resolution lowest-direct --extra dev --no-annotate --no-header \
	    pyproject.toml | grep -vE "^(torch|triton|nvidia-|cuda-)" > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/oldest.txt -e ".[dev]"
	OMP_NUM_THREADS=1 $(OLDEST)/bin/pytest -n 2 $(LEFT_OUT:%=--ignore=tests/test_%.py)

benchmark: $(VENV)/user
	$(BIN)/python benchmarks/overhead.py

# torch first, held by the constraints, so that no other package can pull in another build of it.
# On Linux a plain index gives the CUDA build; for the small CPU build set PIP_TORCH="--index-url ..." as pytorch.org says.
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_TORCH) torch
	touch $@

$(VENV)/user: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/docs: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@ $(VENV)/user

$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/user $(VENV)/docs

clean-venv:
	rm -rf $(VENV)
