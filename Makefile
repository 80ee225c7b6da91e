# Each target works from a fresh clone: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where no torch is installed yet; any torch >= 2.10 works. Set TORCH=torch for the newest, TORCH= to leave pip the choice.
TORCH ?= torch==2.13.0
REPORT ?= report

.PHONY: demo test lint format clean

demo: $(VENV)/.demo
	$(BIN)/intraformer-fast demo --output $(REPORT)

test: $(VENV)/.test
	$(MAKE) lint
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first: it alone decides how large the installation is, and the build then needs no second copy of it.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet "$(or $(TORCH),torch>=2.10)"
	touch $@

$(VENV)/.%: $(VENV)/.torch pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info $(REPORT)
