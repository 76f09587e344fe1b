# Everything runs in .venv; a bare machine needs Python >= 3.10 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test test-slow lint tiny clean

setup: $(VENV)/.installed

# torch goes first: the pinned version may be at hand as a CPU build, and nothing after it then asks for another.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/llava-eval run --model tiny --tasks all --data mini

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A worker for each core, up to as many as memory surely suffices for, and one thread in each.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8

# DeepSpeed compiles parts of itself when it is first used, which needs a C++ compiler.
$(VENV)/.deepspeed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[deepspeed]'
	touch $@

test-slow: $(VENV)/.deepspeed
	$(BIN)/python -m pytest -m slow

tiny: setup
	$(BIN)/python -m llava_core.tiny

clean:
	rm -rf $(VENV)
