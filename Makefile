# Two commands, each complete on a fresh machine: a virtual environment, the installation, the run.
#   make verify    the main job: LFW where it is found or can be downloaded, else the embedded demo
#   make test      the tests
# PYTHON chooses the interpreter (3.11 or newer), BLURFACE_DATA the folder of data sets.
#
# The tables under results/, from the weights that are packaged (docs/protocol.md has the cost of each):
#   make results              those of `results:` below; any results-NAME alone
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
WITH_CONTROL = $(NETWORKS) --restorer plain
ALL_NETWORKS = $(WITH_CONTROL) --restorer deepdeblur
RUN = $(BLURFACE) verify --jobs $(JOBS)
TABLES = $(BLURFACE) tables --jobs $(JOBS)
# Those of these runs that are there.
finished = $(patsubst %/run.json,--run %,$(wildcard $(1:%=$(OUT)/%/run.json)))
READY = $(if $(filter $(BIN)/blurface,$(BLURFACE)),$(VENV)/.installed)

.PHONY: verify test lint clean pictures results results-lfw results-lfw-aligned results-lfw-time results-plain results-edgeface \
  results-verifiers results-facescrub results-tables results-seeds results-linear results-linear-whole \
  results-robustness results-int8 results-times results-methods results-methods-networks results-methods-table \
  results-deepdeblur results-ablation results-pages package-int8

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
	  $(BIN)/blurface demo --out runs/demo.png; \
	fi

# Two workers of one thread each.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The cheap and the telling first; what takes hours last. A run that was stopped goes on where it was.
results: results-lfw results-lfw-aligned results-facescrub results-plain results-tables results-edgeface results-verifiers \
  results-linear results-linear-whole results-robustness results-int8 results-seeds results-times results-methods \
  results-pages

results-lfw: $(READY)
	$(RUN) --pairs lfw $(NETWORKS) --verifier mobilefacenet $(WHOLE) --out $(OUT)/lfw-mobilefacenet

# The same pairs on crops that are aligned already, without photographs around them: beyond 8 columns on either
# side, what the blur carries in is the repeated edge.
results-lfw-aligned: $(READY)
	$(RUN) --pairs lfw --crops aligned $(NETWORKS) --verifier mobilefacenet $(WHOLE) --out $(OUT)/lfw-aligned

# How long the main job takes: everything anew, two restorers; nothing else should run.
results-lfw-time: $(READY)
	$(RUN) --pairs lfw --restorer none --restorer fast --verifier mobilefacenet $(WHOLE) --fresh --out runs/lfw-time
	cp runs/lfw-time/run.json $(OUT)/lfw-time.json

# Pairs in LFW's format beside the results, then the run on the same pairs.
results-facescrub: $(READY)
	$(BLURFACE) data pairs facescrub --seed 0 --out $(OUT)/facescrub/pairs.txt
	$(RUN) --pairs facescrub $(NETWORKS) --verifier mobilefacenet $(WHOLE) --out $(OUT)/facescrub

# The control without the blur model inside, and the paper's network (a tenth of a second of a core a face).
results-plain results-deepdeblur: results-%: $(READY)
	$(RUN) --pairs lfw --restorer none --restorer $* --verifier mobilefacenet $(WHOLE) --out $(OUT)/lfw-$*

# Table 3 from the runs on the whole of LFW.
$(OUT)/lfw-mobilefacenet/run.json:
	$(MAKE) results-lfw

$(OUT)/lfw-plain/run.json:
	$(MAKE) results-plain

results-tables: $(READY) $(OUT)/lfw-mobilefacenet/run.json $(OUT)/lfw-plain/run.json
	$(TABLES) --which 3 --run $(OUT)/lfw-mobilefacenet --run $(OUT)/lfw-plain \
	  $(call finished,lfw-deepdeblur) --out $(OUT)/table3

# Verifiers that are in no training loss; one restoration serves both.
results-edgeface: $(READY)
	$(RUN) --pairs lfw $(NETWORKS) --verifier edgeface-xs --verifier edgeface-xxs $(WHOLE) --out $(OUT)/lfw-edgeface

# The same pairs under four verifiers; dlib's takes a tenth of a second a face.
results-verifiers: $(READY)
	$(RUN) --pairs lfw --restorer none --restorer fast --verifier mobilefacenet --verifier edgeface-xs \
	  --verifier edgeface-xxs --verifier dlib $(call PART,600) --out $(OUT)/lfw-600-verifiers

# What eight bits cost on the same pairs.
INT8 = blurface/weights/fast.int8.onnx

results-int8: $(READY)
	$(RUN) --pairs lfw --restorer none --restorer fast --restorer exported:$(INT8) \
	  --verifier mobilefacenet --verifier edgeface-xs $(call PART,600) --out $(OUT)/lfw-600-int8

# The packaged file of eight bits anew, after fast's weights: calibrated on training faces (blurface data pack,
# docs/training.md).
CALIBRATION ?= training/celeba.parquet

package-int8: $(READY)
	$(BLURFACE) export --model fast --precision int8 --calibration $(CALIBRATION) --out $(INT8)

results-linear: $(READY)
	$(TABLES) --which 4 $(call PART,500) --out $(OUT)/table4

# The whole of LFW under it, before a verifier that is in no training loss.
results-linear-whole: $(READY)
	$(RUN) --pairs lfw $(NETWORKS) --kernels linear:15,45 --verifier edgeface-xs $(WHOLE) \
	  --out $(OUT)/lfw-linear15-edgeface

results-robustness: $(READY)
	$(TABLES) --which robustness --restorer fast --restorer plain $(call PART,100) --out $(OUT)/robustness

# Table 2 over three draws of pairs: 50 with one of the classical methods, 500 with the networks.
DRAWS = $(WITH_CONTROL) --seed 0 --seed 1 --seed 2

results-seeds: $(READY)
	$(TABLES) --which 2 $(DRAWS) --restorer krishnan --subset $(or $(LIMIT),50) --out $(OUT)/table2-draws/50
	$(TABLES) --which 2 $(DRAWS) --subset $(or $(LIMIT),500) --out $(OUT)/table2-draws/500

results-times: $(READY)
	$(BLURFACE) tables --which 1 --jobs 1 --time-limit $(if $(LIMIT),1,30) --out $(OUT)/table1

# Table 2. A folder a method, since they take from minutes to hours: a finished one is kept (remove it to measure
# again), and what is there makes the table. The quick ones on 500 pairs as well.
METHODS = krishnan chakrabarti levin pan sun michaeli perrone
QUICK = krishnan levin pan

results-methods: $(READY) $(METHODS:%=$(OUT)/lfw-50/%/run.json) $(QUICK:%=$(OUT)/lfw-500/%/run.json)
	$(MAKE) results-methods-networks results-methods-table

# Our networks on the same pairs.
results-methods-networks: $(READY)
	$(RUN) --pairs lfw $(ALL_NETWORKS) --verifier mobilefacenet $(call PART,50) --out $(OUT)/lfw-50/networks
	$(RUN) --pairs lfw $(ALL_NETWORKS) --verifier mobilefacenet $(call PART,500) --out $(OUT)/lfw-500/networks

results-methods-table: $(READY)
	$(TABLES) --which 2 $(call finished,lfw-50/networks $(METHODS:%=lfw-50/%) lfw-500/networks $(QUICK:%=lfw-500/%)) --out $(OUT)/table2

$(OUT)/lfw-50/%/run.json: | $(READY)
	$(RUN) --pairs lfw --restorer none --restorer $* --verifier mobilefacenet $(call PART,50) --out $(@D)

$(OUT)/lfw-500/%/run.json: | $(READY)
	$(RUN) --pairs lfw --restorer none --restorer $* --verifier mobilefacenet $(call PART,500) --out $(@D)

# Table 5, figures 4 and 9: variants of the small paper network of configs/ablation.toml, which are trained first on
# training/celeba.parquet (docs/training.md). The first is the one that the others differ from in one thing.
ABLATION = runs/ablation
VARIANTS = base no-reduction ratio-0.2 ratio-5 no-facial
ABLATION_no-reduction = --set network_options.reduction=False
ABLATION_ratio-0.2 = --set loss.tv=0.0002
ABLATION_ratio-5 = --set loss.tv=0.005
ABLATION_no-facial = --set loss.facial=0.0
# Not in table 5: with fast's result as a second target.
ABLATION_distilled = --set teacher_network=fast --set loss.distilled=1.0
model = --model "$(1)=$(ABLATION)/$(2)/ablation.safetensors"

# A run that is finished ends at once, one that was stopped goes on.
ablation-%: $(READY)
	$(BLURFACE) train --config configs/ablation.toml --out $(ABLATION)/$* $(ABLATION_$*)

results-ablation: $(VARIANTS:%=ablation-%)
	$(TABLES) --which 5 $(call model,with 1x1 reduction,base) $(call model,without 1x1 reduction,no-reduction) \
	  $(call model,alpha/beta 0.2,ratio-0.2) $(call model,alpha/beta 5,ratio-5) \
	  $(call model,without facial loss,no-facial) $(call PART,300) --out $(OUT)/ablation
	for variant in $(VARIANTS); do cp $(ABLATION)/$$variant/log.csv $(OUT)/ablation/$$variant.csv; done
	$(BLURFACE) figures --which 4,9 $(call model,alpha/beta 1,base) $(call model,alpha/beta 0.2,ratio-0.2) \
	  $(call model,alpha/beta 5,ratio-5) --photograph astronaut --out runs/pictures
	cp runs/pictures/figure-04-responses.png docs/images/responses.png
	cp runs/pictures/figure-09-losses.png docs/images/losses.png

# The pictures of the documentation: scikit-image's astronaut, which may be published.
pictures: $(READY)
	$(BLURFACE) figures --which 6 --photograph astronaut --restorer fast --out runs/pictures
	cp runs/pictures/figure-06-kernels.png docs/images/restored.png
	$(BLURFACE) figures --which 5 --photograph astronaut $(METHODS:%=--restorer %) --restorer fast --out runs/pictures
	cp runs/pictures/figure-05-compared.png docs/images/methods.png

# Figures and pages hold faces and are not for publishing: runs/ is not under version control.
results-pages: $(READY)
	$(BLURFACE) figures $(OUT)/lfw-mobilefacenet $(OUT)/facescrub --out runs/figures
	$(BLURFACE) figures $(OUT)/robustness/runs/robustness-* --which robustness --out runs/figures
	$(BLURFACE) report $(OUT)/lfw-mobilefacenet
	$(BLURFACE) report $(OUT)/facescrub
	$(BLURFACE) report $(OUT)/lfw-edgeface

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
