# Two commands, each complete on a fresh machine: a virtual environment, the installation, the run.
#   make verify    the main job: LFW where it is found or can be downloaded, else the embedded demo
#   make test      the tests
# PYTHON chooses the interpreter (3.11 or newer), BLURFACE_DATA the folder of data sets.
#
# Everything under results/, from the weights that are packaged (docs/protocol.md has the cost of each):
#   make results              all of it; any of results-NAME below alone
#   make results OUT=/tmp/r LIMIT=20   the same on 20 pairs each, to try it out

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

BLURFACE ?= $(BIN)/blurface
OUT ?= results
JOBS ?= 2
# Pairs: of the runs on the whole of LFW and FaceScrub, and of those on a part.
LIMIT ?=
WHOLE = $(if $(LIMIT),--subset $(LIMIT))
PART = --seed 0 --subset $(or $(LIMIT),$(1))
NETWORKS = --restorer none --restorer fast --restorer gated:fast
RUN = $(BLURFACE) verify --jobs $(JOBS)
TABLES = $(BLURFACE) tables --jobs $(JOBS)
READY = $(if $(filter $(BIN)/blurface,$(BLURFACE)),$(VENV)/.installed)

.PHONY: verify test lint clean results results-lfw results-lfw-time results-edgeface results-verifiers \
  results-facescrub results-tables results-seeds results-linear results-robustness results-times results-methods results-pages

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

# The cheap and the telling first; what takes hours last. A run that was stopped goes on where it was.
results: results-lfw results-facescrub results-tables results-edgeface results-verifiers results-linear \
  results-robustness results-seeds results-times results-methods results-pages

results-lfw: $(READY)
	$(RUN) --pairs lfw $(NETWORKS) --verifier mobilefacenet $(WHOLE) --out $(OUT)/lfw-mobilefacenet

# How long the main job takes: everything anew, two restorers; nothing else should run.
results-lfw-time: $(READY)
	$(RUN) --pairs lfw --restorer none --restorer fast --verifier mobilefacenet $(WHOLE) --fresh --out runs/lfw-time
	cp runs/lfw-time/run.json $(OUT)/lfw-time.json

# Pairs in LFW's format beside the results, then the run on the same pairs.
results-facescrub: $(READY)
	$(BLURFACE) data pairs facescrub --seed 0 --out $(OUT)/facescrub/pairs.txt
	$(RUN) --pairs facescrub $(NETWORKS) --verifier mobilefacenet $(WHOLE) --out $(OUT)/facescrub

# Table 3 from the run on the whole of LFW.
results-tables: results-lfw
	$(TABLES) --which 3 --run $(OUT)/lfw-mobilefacenet --out $(OUT)/table3

# Verifiers that are in no training loss; one restoration serves both.
results-edgeface: $(READY)
	$(RUN) --pairs lfw $(NETWORKS) --verifier edgeface-xs --verifier edgeface-xxs $(WHOLE) --out $(OUT)/lfw-edgeface

# The same pairs under all verifiers; dlib's takes a tenth of a second a face.
results-verifiers: $(READY)
	$(RUN) --pairs lfw --restorer none --restorer fast --verifier mobilefacenet --verifier edgeface-xs \
	  --verifier edgeface-xxs --verifier dlib $(call PART,600) --out $(OUT)/lfw-600-verifiers

results-linear: $(READY)
	$(TABLES) --which 4 $(call PART,500) --out $(OUT)/table4

results-robustness: $(READY)
	$(TABLES) --which robustness --restorer fast $(call PART,200) --out $(OUT)/robustness

results-seeds: $(READY)
	$(TABLES) --which 2 --restorer fast --restorer gated:fast --restorer krishnan --subset $(or $(LIMIT),50) \
	  --subset $(or $(LIMIT),500) --seed 0 --seed 1 --seed 2 --out $(OUT)/table2-seeds

results-times: $(READY)
	$(BLURFACE) tables --which 1 --jobs 1 --time-limit $(if $(LIMIT),1,60) --out $(OUT)/table1

# Every method of table 2 on 50 pairs: hours, and the networks' share of it is minutes.
results-methods: $(READY)
	$(TABLES) --which 2 $(call PART,50) --out $(OUT)/table2

# Figures and pages hold faces and are not for publishing: runs/ is not under version control.
results-pages: $(READY)
	$(BLURFACE) figures $(OUT)/lfw-mobilefacenet $(OUT)/facescrub --out runs/figures
	$(BLURFACE) figures $(OUT)/robustness/runs/robustness-* --which robustness --out runs/figures
	$(BLURFACE) report $(OUT)/lfw-mobilefacenet
	$(BLURFACE) report $(OUT)/facescrub
	$(BLURFACE) report $(OUT)/lfw-edgeface

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
