# Two commands: `make demo` runs the main job, `make test` passes the tests. Both make their own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000

.PHONY: demo test lint types tests benchmark clean-venv

demo: $(VENV)/user
	$(RUN) $(BIN)/anyorder demo --out demo

test: lint types tests

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

tests: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

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

$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/user

clean-venv:
	rm -rf $(VENV)
