# Two commands, each complete on a fresh machine: a virtual environment, the installation, the run.
#   make verify    the main job: LFW where it is found or can be downloaded, else the embedded demo
#   make test      the tests
# PYTHON chooses the interpreter (3.11 or newer), BLURFACE_DATA the folder of data sets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: verify test lint clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

verify: $(VENV)/.installed
	@if $(BIN)/blurface data path lfw >/dev/null 2>&1 || $(BIN)/blurface data get lfw; then \
	  verifier=dlib; $(BIN)/blurface data path mobilefacenet >/dev/null 2>&1 && verifier=mobilefacenet; \
	  echo "LFW found: the main job, verifier $$verifier."; \
	  $(BIN)/blurface verify --pairs lfw --verifier $$verifier --out runs/verify; \
	else \
	  echo "LFW is neither on disk nor can it be downloaded: the demonstration on one photograph instead."; \
	  $(BIN)/blurface demo --out runs/demo; \
	fi

test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
