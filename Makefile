# `make` alone prints the targets. Override what follows on the command line: make shards SOURCE=folder:photos SIZE=224
# ARGS has further flags of the target's command: make train ARGS="--epochs 3"
PYTHON  ?= python3
EXTRAS  ?= dev
SOURCE  ?= hub:ethz/food101
SIZE    ?= 192
ENCODING ?= raw
SHARDS  ?= shards/food101
RECIPE  ?= baseline
RUN     ?= runs/$(RECIPE)
DEMO    ?= runs/demo
ARGS    ?=
# Tests that train nothing.
FAST    ?= tests/shards tests/compute tests/models/test_models.py tests/models/test_weights.py \
	tests/prepare/test_split.py tests/prepare/test_duplicates.py \
	tests/loader/test_order.py tests/transforms/test_keyed.py tests/bench/test_doctor.py tests/test_documents.py tests/test_limits.py

VENV := .venv
BIN  := $(VENV)/bin
# Written last, so that an interrupted installation is done again; older than its inputs, so that a changed one is.
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo shards train evaluate report export bench profile bench-peers test test-fast lint docs wheel

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## build .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(READY) ## the whole job on drawn pictures: prepare, train, evaluate (no network)
	rm -rf $(DEMO)
	$(BIN)/python -m food101_fast.prepare --source demo: --size 64 --out $(DEMO)/shards
	$(BIN)/python -m food101_fast.train --shards $(DEMO)/shards --run $(DEMO)/run --recipe demo
	$(BIN)/python -m food101_fast.evaluate --run $(DEMO)/run

shards: $(READY) ## decode SOURCE (default: Food-101 from the hub) once into SHARDS
	$(BIN)/python -m food101_fast.prepare --source $(SOURCE) --size $(SIZE) --encoding $(ENCODING) --out $(SHARDS) $(ARGS)

train: $(READY) ## train RECIPE (default: baseline) on SHARDS into RUN
	$(BIN)/python -m food101_fast.train --shards $(SHARDS) --run $(RUN) \
	  $(if $(findstring --resume,$(ARGS)),,--recipe $(RECIPE)) $(ARGS)

evaluate: $(READY) ## measure RUN on the test split
	$(BIN)/python -m food101_fast.evaluate --run $(RUN) $(ARGS)

report: $(READY) ## write report.html of RUN again
	$(BIN)/python -m food101_fast.report --run $(RUN) $(ARGS)

export: $(READY) ## RUN as a torch.export program and ONNX with a model card, into RUN/export
	$(BIN)/python -m food101_fast.export --run $(RUN) --onnx $(ARGS)

bench: $(READY) ## which stage bounds training on SHARDS, and what each can do
	$(BIN)/python -m food101_fast.bench --shards $(SHARDS) $(ARGS)

profile: $(READY) ## a trace and a timeline of ten steps on SHARDS, into profiles/
	$(BIN)/python -m food101_fast.bench train --shards $(SHARDS) --profile profiles $(ARGS)

bench-peers: $(READY) ## ours against all others on PHOTOS (class folders), from loading to training; half an hour
	$(BIN)/python benchmarks/peers.py --photos $(PHOTOS) $(ARGS)

test: $(READY) ## run the tests on all cores (those on real photographs need FOOD101_FAST_DATA)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(READY) ## the tests that train nothing, under a minute
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(FAST) $(ARGS)

docs: $(READY) ## the pages as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(READY) ## the package as a wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lint: $(READY) ## ruff, mypy --strict, and which folder may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
