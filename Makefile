# Targets of Thawline. `make run` and `make test` need nothing but this checkout, Python 3.11 and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
BENCH ?=
QUALITY ?=
IMAGE ?= thawline-python:latest
DOCKER ?= docker
# More for `docker build`: BUILD='--build-arg TORCH=cpu --build-arg TORCH_INDEX=… --build-arg TASKS=text'
BUILD ?=
# Groups of pyproject.toml that only some tasks need; the image has those that it is built with.
TASKS := text audio detection
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate
IMAGE_LOCK := $(COMPILE) --python-version 3.11 -c requirements.lock -
HOME_FOLDER := .thawline
PHOTOS := $(HOME_FOLDER)/demo/stamps
# The demo's settings: eight trials over both phases, one to three stages thawed, half the native size for speed.
DEMO := --model stamps --weights package:efficientnet-lite0 --image-size 160 --trials 8

.PHONY: help install run test test-slow coverage faults fuzz check prepare format compile image wheels lock lock-image golden docs bench bench-steps bench-quality nightly clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "}; {printf "  make %-13s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Create the environment .venv from the lock

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; } \
		|| { echo "Python's venv is needed, as root: apt-get install python3-venv"; exit 1; }
	@echo "Making the environment $(VENV); PyTorch alone is several gigabytes, so this takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	@touch $@

$(PHOTOS): | $(VENV)/.installed
	@echo "Fetching the demo photos (a Debian package of 161 MB, read without installing it)"
	@mkdir -p $(HOME_FOLDER)/demo
	@$(BIN)/python -m pipelines.local.demo $(PHOTOS)

run: $(VENV)/.installed $(PHOTOS) ## Run the whole pipeline on real photos, to a registered champion
	@$(BIN)/thawline run $(PHOTOS) $(DEMO)

PYTEST := $(BIN)/python -m pytest
# tests/conftest.py says what stays together, and what comes first.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder
test: $(VENV)/.installed ## Run the quick tests
	$(PYTEST) -m "not slow" -q $(PARALLEL)

# What checks pages for keyboards and screen readers; beside the environment, which would miss its dependencies.
AXE := build/axe/axe_playwright_python/axe.min.js
$(AXE): tests/support/axe.txt | $(VENV)/.installed
	@rm -rf build/axe
	$(BIN)/pip install --quiet --disable-pip-version-check --target build/axe --no-deps --require-hashes -r $<
	@touch $@

test-slow: $(VENV)/.installed $(PHOTOS) $(AXE) ## Run the slow tests: real photos, real S3, real servers
	$(PYTEST) -m slow -q $(PARALLEL)

# Tracing makes the tests a third to a half slower: by night it follows the slow ones too.
SUITES := test
coverage: $(VENV)/.installed ## Run the quick tests, and print how much of the code they run
	$(BIN)/coverage erase
	@$(MAKE) --no-print-directory $(SUITES) PYTEST='$(BIN)/coverage run -m pytest'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

N := 12
faults: $(VENV)/.installed ## Kill runs N times, between two writes and at random, and compare with an undisturbed one (minutes; N=200: an hour)
	$(BIN)/python -m tests.faults.kills $(N) --points --each 6 --folder $(HOME_FOLDER)/faults

check: $(VENV)/.installed ## Lint, types and architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

prepare: $(VENV)/.installed ## Check, and fetch the packages of images and tests meanwhile: types take one core, downloads none
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target check wheels $(AXE)

format: $(VENV)/.installed ## Format, and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

compile: $(VENV)/.installed ## Write the DAG as YAML for Kubeflow
	$(BIN)/thawline compile -o fine_tuning.yaml

golden: $(VENV)/.installed ## Rewrite the golden copies of the compiled DAG
	$(BIN)/thawline compile -o tests/golden/fine_tuning.yaml
	$(BIN)/thawline compile --config tests/golden/cluster_options.yaml -o tests/golden/cluster.yaml

docs: $(VENV)/.installed ## Build the documentation's site in build/site
	$(BIN)/python docs/site.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "See it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

image: ## Build the image that every step runs in (docs/image.md)
	DOCKER_BUILDKIT=1 $(DOCKER) build -f docker/Dockerfile -t $(IMAGE) \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) $(BUILD) .

FETCH := $(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --no-build-isolation
wheels: $(VENV)/.installed ## Fetch the image's packages into docker/wheels, for a build without downloads
	$(FETCH) -r docker/torch-cuda.txt -d docker/wheels/torch
	$(FETCH) --find-links docker/wheels/torch -r docker/requirements.txt $(TASKS:%=-r docker/requirements-%.txt) \
		-d docker/wheels/rest

lock: $(VENV)/.installed ## Resolve the dependencies again and write the locks
	$(COMPILE) pyproject.toml --all-extras --upgrade -o requirements.lock
	@$(MAKE) --no-print-directory lock-image

# What of requirements.lock is PyTorch's own, and differs between its builds.
TORCH_ONLY = $$(sed -nE 's/^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==.*/--no-emit-package \1/p' \
	requirements.lock)
lock-image: $(VENV)/.installed ## Write the images' locks from requirements.lock; TORCH_INDEX=…: of PyTorch's CPU build
ifdef TORCH_INDEX
	printf 'torch\ntorchvision\n' | $(filter-out --universal,$(IMAGE_LOCK)) --python-platform x86_64-manylinux_2_28 \
		--index $(TORCH_INDEX) --index-strategy unsafe-best-match -o docker/torch-cpu.txt
else
	printf 'torch\ntorchvision\n' | $(IMAGE_LOCK) -o docker/torch-cuda.txt
	@for task in '' $(TASKS); do \
		$(COMPILE) pyproject.toml $${task:+--extra $$task} -c requirements.lock $(TORCH_ONLY) \
			-o docker/requirements$${task:+-$$task}.txt || exit; \
	done
	printf 'mlflow[auth]\npsycopg[binary]\nboto3\n' | $(IMAGE_LOCK) -o docker/mlflow.txt
endif

# Made anew when a list changes: fastai comes without spacy, which the check of a second install would miss.
$(BENCH_VENV)/.peers: requirements.lock pyproject.toml tests/benchmarks/requirements.txt
	rm -rf $(BENCH_VENV)
	@$(MAKE) --no-print-directory install VENV=$(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r tests/benchmarks/requirements.txt
	@touch $@

bench: $(BENCH_VENV)/.peers $(PHOTOS) ## Measure against the plain loop, fastai and Lightning (hours; BENCH=--quick: minutes)
	$(BENCH_VENV)/bin/python -m tests.benchmarks.compare --stamps $(PHOTOS) $(BENCH)

bench-steps: $(VENV)/.installed $(PHOTOS) ## Measure: accuracy over five splits, overhead of the steps, memory, a skip
	$(BIN)/python tests/benchmarks/quality/five_salts.py $(PHOTOS) --home $(HOME_FOLDER)/bench
	$(BIN)/python tests/benchmarks/overhead.py $$(ls -d $(HOME_FOLDER)/bench/runs/* | tail -n 1)
	$(BIN)/python -m tests.benchmarks.volume.prepare_20000
	$(BIN)/python -m tests.benchmarks.volume.copies
	$(BIN)/python -m tests.benchmarks.half_year
	$(BIN)/python -m tests.benchmarks.volume.skip_20000

bench-quality: $(BENCH_VENV)/.peers ## Measure accuracy against a linear probe and fastai (a day; QUALITY='--sets stamps --salts 1')
	$(BENCH_VENV)/bin/python -m tests.benchmarks.quality.run --output $(HOME_FOLDER)/quality $(QUALITY)

fuzz: $(VENV)/.installed ## Read damaged inputs for SECONDS (60) of each kind, and keep those that fail in tests/fuzz/corpus
	$(BIN)/python -m tests.fuzz.run $(SECONDS)

nightly: export THAWLINE_ENGINE_NETWORK = 1
# As in .ci/run: what is not installed fails, instead of being skipped in silence.
nightly: export THAWLINE_REQUIRE_ENGINE = 1
nightly: export THAWLINE_REQUIRE_SERVICES = 1
nightly: SUITES := test test-slow
nightly: QUALITY := --salts 1
nightly: SECONDS := 600
nightly: check wheels coverage faults fuzz bench bench-steps bench-quality ## Run every check and every benchmark, overnight

clean: ## Remove environments, fetched packages and layers (data and models in .thawline stay)
	rm -rf $(VENV) $(BENCH_VENV) *.egg-info build docker/wheels/*/*.whl docker/wheels/*/*.tar.gz
