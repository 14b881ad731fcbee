.DEFAULT_GOAL := help
.PHONY: help serve test test-runtime lint types unit k8s-check monitoring loadtest benchmark image image-test sbom audit train lock clean

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 3000
SCENARIO ?= mixed
TARGET ?= cpu
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := .venv-runtime

# Where it is set, every process compiles all modules that it imports: seconds for each server that a test starts.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

serve: $(VENV)/.serve ## Serve the bundled model on HOST:PORT (127.0.0.1:3000)
	@echo "Starting on http://$(HOST):$(PORT); once /readyz answers, score an eye from another terminal with"
	@echo "  curl -F image=@examples/open.jpg http://$(HOST):$(PORT)/v1/score"
	@BENTOML_HOME=$(CURDIR)/.bentoml/$(PORT) BENTOML_DO_NOT_TRACK=True \
		$(BIN)/bentoml serve service --host $(HOST) --port $(PORT)

test: lint types unit ## Run lint, type checks and all tests

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

unit: $(VENV)/.dev ## Run all tests, two files at a time
	$(call pytest,$(BIN))

test-runtime: $(RUNTIME)/.test ## Test the runtime and the service in an environment of their own, without PyTorch
	$(call pytest,$(RUNTIME)/bin) tests/eyestate tests/service tests/models

loadtest: $(VENV)/.dev ## Start the service and load it for half a minute: exit code 0 if it held (SCENARIO=mixed)
	$(BIN)/python -m loadtests.scenarios $(SCENARIO) --seconds 30

benchmark: $(VENV)/.dev ## Judge and time all models beside the public ones, and write docs/benchmarks.md (ten minutes on two cores)
	$(BIN)/python -m tools.benchmarks

monitoring: $(VENV)/.dev ## Start the service and Prometheus, with Grafana where it is installed
	@$(BIN)/python -m tools.monitoring up --port $(PORT)

k8s-check: $(VENV)/.dev .bentoml/k8s/checkov/.installed ## Hold the Kubernetes manifests against every validator, and run their containers here
	$(BIN)/pytest tests/k8s

image: $(VENV)/.dev ## Build the container image with docker, podman or buildah (TARGET=cpu, or cuda)
	$(BIN)/python -m tools.container build $(TARGET)

image-test: $(VENV)/.dev ## Build the image, run it unprivileged and read-only, score, stop it under load (TARGET=cpu, or cuda)
	$(BIN)/python -m tools.container test $(TARGET)

sbom: $(VENV)/.dev ## List what is in the image, as CycloneDX in dist/ (TARGET=cpu, or cuda)
	$(BIN)/python -m tools.container sbom $(TARGET)

audit: $(VENV)/.dev ## Ask PyPI for known vulnerabilities of everything pinned: fails on one, and where it cannot ask
	$(BIN)/pip-audit --strict --disable-pip --progress-spinner off $(foreach set,serve serve-gpu dev,-r requirements/$(set).txt)

train: $(VENV)/.train ## Make final_best from unlabelled crops: what of dvc.yaml is not up to date (about two hours on two cores)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(keep_memory) $(BIN)/dvc repro

lock: $(VENV)/.uv ## Pin the dependencies after a change in pyproject.toml (UPGRADE=--upgrade renews all)
	$(call compile,serve,pyproject.toml --extra cpu --extra serve --extra client)
	$(call compile,serve-gpu,pyproject.toml --extra gpu --extra serve --extra client -c requirements/serve.txt)
	$(call compile,train,pyproject.toml --extra cpu --extra serve --extra client --extra train -c requirements/serve.txt)
	$(call compile,dev,pyproject.toml --extra cpu --extra serve --extra client --extra train --extra ray --extra dev -c requirements/train.txt)
	$(call compile,test,pyproject.toml --extra cpu --extra serve --extra test -c requirements/dev.txt)
	$(call compile,bootstrap,requirements/bootstrap.in -c requirements/dev.txt)
	$(call compile,../loadtests/peers/requirements,loadtests/peers/requirements.in -c requirements/serve.txt)
	$(call compile,../loadtests/peers/mlserver,loadtests/peers/mlserver.in)
	$(call compile,checkov,requirements/checkov.in)

# Many tests wait for servers, so two files run at a time. What was skipped, and why, is printed at the end.
pytest = OMP_NUM_THREADS=1 $(1)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -rs --durations 15

clean: ## Remove the environment and all caches, but no training run
	rm -rf $(VENV) $(RUNTIME) .bentoml .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A training step frees and takes the same gigabytes again and again; when glibc keeps them, in large pages, training on
# CPU is about a sixth faster.
keep_memory = GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_TOP_PAD_=268435456 MALLOC_TRIM_THRESHOLD_=100000000000 \
	MALLOC_MMAP_THRESHOLD_=100000000000

compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" $(UPGRADE) $(2) --output-file requirements/$(1).txt

# Each environment holds the one before it. The pins are complete, so nothing is resolved: --no-deps also keeps
# facenet-pytorch's outdated caps out of it, and --no-config the overrides of pyproject.toml, which would undo the pins.
install = $(@D)/bin/uv pip install --no-config --quiet --python $(@D)/bin/python --no-deps --require-hashes \
	-r requirements/$(1).txt

$(VENV)/.uv $(RUNTIME)/.uv: requirements/bootstrap.txt
	@$(PYTHON) -c '$(check_python)'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

check_python = import sys; found = sys.version_info[:3]; (3, 11) <= found < (3, 14) or sys.exit( \
	"eyestate needs Python 3.11 to 3.13; this is %d.%d.%d: make PYTHON=python3.12 $(MAKECMDGOALS)" % found)

$(VENV)/.serve $(RUNTIME)/.serve: %/.serve: requirements/serve.txt pyproject.toml %/.uv
	@echo "Installing the serving environment into $(@D) …"
	$(call install,serve)
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

$(RUNTIME)/.test: requirements/test.txt $(RUNTIME)/.serve
	@echo "Installing the tests' requirements into $(@D) …"
	$(call install,test)
	@touch $@

$(VENV)/.train: requirements/train.txt $(VENV)/.serve
	@echo "Installing the training environment into $(@D); PyTorch with CUDA takes about 6 GB …"
	$(call install,train)
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.train
	@echo "Installing the development tools into $(@D) …"
	$(call install,dev)
	@touch $@

# Its pins and those of the other environments exclude each other.
.bentoml/k8s/checkov/.installed: requirements/checkov.txt $(VENV)/.uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --no-config --quiet --python $(@D)/bin/python --no-deps --require-hashes -r $<
	@touch $@
