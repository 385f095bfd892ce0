# Everything a contributor runs; `make help` explains. All set-up happens in .venv, made on first use.

PYTHON ?= python3
WORKDIR ?= runs/pocket
PIPELINE ?= examples/pocket.yaml
IMAGES ?= operator jobs jobs-cpu
# A pip index that holds CPU builds of torch (a tenth of the download). Empty: the default index and its CUDA build.
TORCH_INDEX ?=
# two a core, as the tests of the operator mostly wait, and one for those of the node, which do so too
WORKERS ?= $(shell expr $$(nproc) \* 2 + 1)

VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
CUDA_PACKAGES := ^(torch|triton|nvidia-|cuda-)
TORCH_VERSION = $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' $(LOCK))
export OMP_WAIT_POLICY := passive
# hundreds of processes are started from here: none shall compile what another has compiled
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run status test test-unit test-nemo lint format manifests cluster cluster-down cluster-programs images lock pocket-base five-seeds benchmark benchmark-operator benchmark-cluster benchmark-generators clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PIPELINE=FILE and WORKDIR=DIR choose another resource for make run;"
	@echo "  IMAGES=\"operator jobs-cpu\" chooses what make images builds (jobs, for GPUs, takes 6 GB;"
	@echo "  nemo is built on NVIDIA's image);"
	@echo "  TORCH_INDEX=URL installs torch from an index of CPU builds;"
	@echo "  PYTHON=PATH chooses the interpreter (3.11 or newer)."

run: $(VENV)/.ready ## run the whole pipeline of examples/pocket.yaml on this machine
	@$(BIN)/cai run $(PIPELINE) --workdir $(WORKDIR)

status: $(VENV)/.ready ## show how the last `make run` stands
	@$(BIN)/cai status $(WORKDIR)

test: $(VENV)/.ready cluster-programs ## run every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder tests

test-unit: $(VENV)/.ready ## run the fast tests of the pure core
	$(BIN)/python -m pytest -n $(WORKERS) tests/unit

test-nemo: $(VENV)/.ready ## let the real NeMo-Aligner read a pocket run's files (once: five minutes, 2 GB)
	$(BIN)/python -m pytest tests/pipeline/test_nemo_aligner.py

lint: $(VENV)/.ready ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pocket-base: $(VENV)/.ready ## train the shipped pocket model and judge again from the committed script
	OMP_NUM_THREADS=1 $(BIN)/python -m cai_jobs.pocket_base --output build/pocket
	@echo "build/pocket/model and build/pocket/judge.json are what jobs/cai_jobs/data/pocket/ ships"

five-seeds: $(VENV)/.ready ## run the pocket pipeline with five seeds and print the rates
	$(BIN)/python -m benchmarks.five_seeds

benchmark: $(VENV)/.ready ## print speeds and their ratios
	$(BIN)/python -m benchmarks.training_speed

benchmark-operator: $(VENV)/.ready ## print what the operator costs a cluster, and how fast it reacts
	$(BIN)/python -m benchmarks.operator_load

benchmark-cluster: $(VENV)/.ready ## run the pocket pipeline on a node of this machine and beside it with cai run
	$(BIN)/python -m benchmarks.cluster_overhead

benchmark-generators: $(VENV)/.ready ## print how much faster the data generators are than the reference's
	$(BIN)/python -m benchmarks.generators

manifests: $(VENV)/.ready ## write crds/, docs/reference.md, the chart's generated files and the bundle anew
	@$(BIN)/python -m cai_operator.crd

cluster: $(VENV)/.ready ## bring up a Kubernetes node on this machine, our images in it (Linux, root)
	@$(BIN)/python -m tests.harness.up up

cluster-down: $(VENV)/.ready ## take that node down again; only its logs stay, in /var/log
	@$(BIN)/python -m tests.harness.up down

cluster-programs: $(VENV)/.ready ## find or build the Kubernetes programs and tools of the tests (once, a quarter of an hour)
	@$(BIN)/python -m tests.harness.binaries

images: ## build the container images with docker or buildah
	@$(PYTHON) images/build.py $(IMAGES)

lock: ## resolve the dependencies anew into requirements.lock and the images' locks
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q hatchling editables '.[jobs,dev]'
	{ echo '# What make installs, made by `make lock` from pyproject.toml.'; \
	  build/lock/bin/pip freeze --exclude cai-operator; } > $(LOCK)
	rm -rf build/lock
	$(MAKE) $(VENV)/.ready
	$(BIN)/python images/locks.py

clean: ## remove the environment and every run
	rm -rf $(VENV) runs build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is wanted; choose one with PYTHON=PATH"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  test "$$(id -u)" = 0 && apt-get update -q && apt-get install -qy python3-venv; } \
	  || { echo "error: this Python cannot make environments; install the package python3-venv"; exit 1; }
	@echo "making $(VENV) (about 6 GB with torch's CUDA build; see TORCH_INDEX in make help)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(LOCK) pyproject.toml | $(VENV)/bin/python
ifeq ($(TORCH_INDEX),)
	@$(BIN)/pip install -q --no-deps -r $(LOCK)
else
	@$(BIN)/pip install -q --index-url $(TORCH_INDEX) torch==$(TORCH_VERSION)
	@grep -vE '$(CUDA_PACKAGES)' $(LOCK) > $(VENV)/lock.txt && $(BIN)/pip install -q --no-deps -r $(VENV)/lock.txt
endif
	@$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@
