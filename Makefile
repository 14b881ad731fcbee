.DEFAULT_GOAL := help
.PHONY: help serve test test-runtime coverage fuzz lint types unit docs docs-serve k8s-check monitoring loadtest benchmark image image-test sbom release audit train record lock measure figures clean

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 3000
SCENARIO ?= mixed
TARGET ?= cpu
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := .venv-runtime

# If set, every process recompiles all modules it imports, which costs seconds per server that a test starts.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

serve: $(VENV)/.serve ## Serve the bundled model on HOST:PORT (127.0.0.1:3000)
	@echo "Starting on http://$(HOST):$(PORT) (HOST= and PORT= choose another address); once /readyz answers, score an eye with"
	@echo "  curl -F image=@examples/open.jpg http://$(HOST):$(PORT)/v1/score"
	@$(BIN)/eyestate serve --host $(HOST) --port $(PORT)

test: lint types unit ## Run everything a change has to pass: lint, type checks and all tests

lint: $(VENV)/.dev ## Check style, formatting, spelling, dependencies and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/deptry .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

unit: $(VENV)/.dev ## Run all tests, two files at a time
	$(call pytest,$(BIN))

test-runtime: $(RUNTIME)/.test ## Test the runtime and the service only, in an environment without PyTorch (under 1 GB)
	$(call pytest,$(RUNTIME)/bin) tests/eyestate tests/service tests/models

coverage: $(RUNTIME)/.test ## Test the runtime and the service as test-runtime does, and fail below the coverage floor
	$(call pytest,$(RUNTIME)/bin) tests/eyestate tests/service --cov

fuzz: $(RUNTIME)/.test ## Fuzz what parses images and requests for about ten minutes, with other examples each time
	$(call pytest,$(RUNTIME)/bin) tests/eyestate -m fuzz --hypothesis-profile fuzz --timeout 1800

loadtest: $(VENV)/.dev ## Start the service and load it for 30 seconds; fails if an objective is missed (SCENARIO=mixed)
	$(BIN)/python -m loadtests.scenarios $(SCENARIO) --seconds 30

docs: $(VENV)/.dev ## Build the documentation with the API reference into site/; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(VENV)/.dev ## Serve the documentation on http://127.0.0.1:8000 and rebuild it on changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

benchmark: $(VENV)/.dev ## Compare accuracy and speed with public models and write docs/benchmarks.md (10 minutes on 2 cores)
	$(BIN)/python -m tools.benchmarks

measure: $(VENV)/.dev ## Measure anew what is older than the models that ship, then fill in README and docs (2 hours, nothing else running)
	$(BIN)/python -m tools.measure

figures: $(VENV)/.dev ## Fill in the figures of README and docs from reports and models
	$(BIN)/python -m tools.figures

monitoring: $(VENV)/.dev ## Start the service with Prometheus, and with Grafana if it is installed
	@$(BIN)/python -m tools.monitoring up --port $(PORT)

k8s-check: $(VENV)/.dev .bentoml/k8s/checkov/.installed ## Validate the Kubernetes manifests with every validator and run their containers locally
	$(BIN)/pytest tests/k8s

image: $(VENV)/.dev ## Build the container image with docker, podman or buildah (TARGET=cpu or cuda)
	$(BIN)/python -m tools.container build $(TARGET)

image-test: $(VENV)/.dev ## Build the image, run it unprivileged and read-only, score, stop it under load (TARGET=cpu or cuda)
	$(BIN)/python -m tools.container test $(TARGET)

sbom: $(VENV)/.dev ## Write the image's SBOM (CycloneDX) to dist/ (TARGET=cpu or cuda)
	$(BIN)/python -m tools.container sbom $(TARGET)

release: $(VENV)/.dev ## Make all that a version is published as in dist/, with the images of TARGET (cpu), checksums and signatures
	$(BIN)/python -m tools.release $(TARGET)

audit: $(VENV)/.dev ## Check every pinned package for known vulnerabilities; fails if there is one or PyPI is unreachable
	$(BIN)/pip-audit --strict --disable-pip --progress-spinner off $(foreach set,serve serve-gpu dev,-r requirements/$(set).txt)

train: $(VENV)/.train ## Train the shipped models: run the DVC stages that are out of date (about 4 hours on 2 cores)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(keep_memory) $(BIN)/dvc repro

record: $(VENV)/.train ## Record in dvc.lock an edit of the training code that changes no result, without training
	$(BIN)/python -m training.record

lock: $(VENV)/.uv ## Pin the dependencies after a change in pyproject.toml (UPGRADE=--upgrade updates all)
	$(call compile,serve,pyproject.toml --extra cpu --extra serve --extra client)
	$(call compile,serve-gpu,pyproject.toml --extra gpu --extra serve --extra client -c requirements/serve.txt)
	$(call compile,train,pyproject.toml --extra cpu --extra serve --extra client --extra train -c requirements/serve.txt)
	$(call compile,dev,pyproject.toml --extra cpu --extra serve --extra client --extra video --extra train --extra ray --extra dev -c requirements/train.txt)
	$(call compile,test,pyproject.toml --extra cpu --extra serve --extra video --extra test -c requirements/dev.txt)
	$(call compile,bootstrap,requirements/bootstrap.in -c requirements/dev.txt)
	$(call compile,../loadtests/peers/requirements,loadtests/peers/requirements.in -c requirements/serve.txt)
	$(call compile,../loadtests/peers/mlserver,loadtests/peers/mlserver.in)
	$(call compile,checkov,requirements/checkov.in)

# Many tests wait for servers, so two files run at a time. If one of the processes dies, the run ends with the name of the
# test: pytest-xdist 3.8 would replace the process and then, with loadfile, wait forever.
pytest = OMP_NUM_THREADS=1 $(1)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	--durations 15

clean: ## Remove the environments and all caches; training runs stay
	rm -rf $(VENV) $(RUNTIME) .bentoml .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage

define check_python
import sys
found = sys.version_info[:3]
if not (3, 11) <= found < (3, 14):
    sys.exit("eyestate needs Python 3.11 to 3.13; this is %d.%d.%d: make PYTHON=python3.12 " % found + " ".join(sys.argv[1:]))
endef
export check_python

# A training step frees and allocates the same gigabytes over and over; if glibc keeps them, in huge pages, training on
# CPU is about a sixth faster.
keep_memory = GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_TOP_PAD_=268435456 MALLOC_TRIM_THRESHOLD_=100000000000 \
	MALLOC_MMAP_THRESHOLD_=100000000000

compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" $(UPGRADE) $(2) --output-file requirements/$(1).txt

# Each environment contains the one before it. The pins are complete, so nothing is resolved: --no-deps ignores
# facenet-pytorch's outdated upper bounds, --no-config the overrides of pyproject.toml, which would undo the pins.
install = $(@D)/bin/uv pip install --no-config --quiet --python $(@D)/bin/python --no-deps --require-hashes \
	-r requirements/$(1).txt

$(VENV)/.uv $(RUNTIME)/.uv: requirements/bootstrap.txt
	@$(PYTHON) -c "$$check_python" $(MAKECMDGOALS)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

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

# In an environment of its own: its pins conflict with the others.
.bentoml/k8s/checkov/.installed: requirements/checkov.txt $(VENV)/.uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --no-config --quiet --python $(@D)/bin/python --no-deps --require-hashes -r $<
	@touch $@
