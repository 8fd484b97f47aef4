# `make` alone prints the targets. Override what follows on the command line: make shards SOURCE=folder:photos SIZE=224
PYTHON  ?= python3
EXTRAS  ?= dev
SOURCE  ?= hub:ethz/food101
SIZE    ?= 192
ENCODING ?= raw
SHARDS  ?= shards/food101
RECIPE  ?= baseline
RUN     ?= runs/$(RECIPE)
DEMO    ?= runs/demo

VENV := .venv
BIN  := $(VENV)/bin
# Written last, so that an interrupted installation is done again; older than its inputs, so that a changed one is.
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo shards train evaluate report export bench profile bench-peers test lint

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	$(BIN)/python -m food101_fast.prepare --source $(SOURCE) --size $(SIZE) --encoding $(ENCODING) --out $(SHARDS)

train: $(READY) ## train RECIPE (default: baseline) on SHARDS into RUN
	$(BIN)/python -m food101_fast.train --shards $(SHARDS) --run $(RUN) --recipe $(RECIPE)

evaluate: $(READY) ## measure RUN on the test split
	$(BIN)/python -m food101_fast.evaluate --run $(RUN)

report: $(READY) ## write report.html of RUN again
	$(BIN)/python -m food101_fast.report --run $(RUN)

export: $(READY) ## RUN as a torch.export program and ONNX with a model card, into RUN/export
	$(BIN)/python -m food101_fast.export --run $(RUN) --onnx

bench: $(READY) ## which stage bounds training on SHARDS, and what each can do
	$(BIN)/python -m food101_fast.bench --shards $(SHARDS)

profile: $(READY) ## a trace and a timeline of ten steps on SHARDS, into profiles/
	$(BIN)/python -m food101_fast.bench train --shards $(SHARDS) --profile profiles

bench-peers: $(READY) ## ours against all others on PHOTOS (class folders), from loading to training; half an hour
	$(BIN)/python benchmarks/peers.py --photos $(PHOTOS)

test: $(READY) ## run the tests on all cores (those on real photographs need FOOD101_FAST_DATA)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

lint: $(READY) ## ruff, mypy --strict, and which folder may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
