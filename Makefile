# Each target works from a fresh clone: it makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where no torch is installed yet; any torch >= 2.10 works. Set TORCH=torch for the newest, TORCH= to leave pip the choice.
TORCH ?= torch==2.13.0
REPORT ?= report

# What the native libraries are made of: a change installs the package anew.
NATIVE_SOURCES := setup.py CMakeLists.txt $(wildcard cmake/*) $(shell find csrc -type f)
# From pip where the machine has none.
BUILD_TOOLS := $(foreach tool,cmake ninja,$(if $(shell command -v $(tool)),,$(tool)))
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test lint native format docs wheel clean

demo: $(VENV)/.demo
	$(BIN)/intraformer-fast demo --output $(REPORT)

test: $(VENV)/.test
	$(MAKE) lint
	$(MAKE) native
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses=2 --dist=worksteal $(PYTEST_ARGS)

CPP := $(shell find csrc tests \( -name "*.cpp" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh" \))

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

# The C++ build on its own and its tests; then those that need no torch again, under sanitizers.
native: native-plain native-address native-thread

# What the package was installed from, with the tests: only those are compiled.
native-plain: OPTIONS := -DBUILD_TESTING=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python
native-address: OPTIONS := -DINTRAFORMER_SANITIZE=address,undefined
# Threads are started by the code that all instruction sets share.
native-thread: OPTIONS := -DINTRAFORMER_SANITIZE=thread -DINTRAFORMER_X86=OFF
# Some ThreadSanitizers know only memory that is laid out without randomization.
native-thread: RUN := $(shell setarch -R true 2>/dev/null && echo setarch -R)
native-%: $(VENV)/.test
	cmake -S . -B build/$* -G Ninja $(OPTIONS)
	cmake --build build/$*
	$(RUN) ctest --test-dir build/$* --no-tests=error --output-on-failure --parallel 2

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# The site, in site/: a warning fails it, and so does a link or an anchor that leads nowhere.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/check_links.py site

# What a release uploads, in dist/.
wheel: $(VENV)/.release
	PYTHON=$(abspath $(BIN))/python INTRAFORMER_BUILD_DIR=build/plain release/wheel.sh

# Executes Triton kernels without a GPU. It asks for Python 3.12, and runs on 3.10; what it needs, the tests install.
TTSEM = $(BIN)/python -m pip install --quiet --ignore-requires-python --no-deps ttsem==0.1.0

# torch comes first: it alone decides how large the installation is, and the build then needs no second copy of it.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel $(BUILD_TOOLS)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet "$(or $(TORCH),torch>=2.10)"
	touch $@

$(VENV)/.%: $(VENV)/.torch pyproject.toml $(NATIVE_SOURCES)
	INTRAFORMER_BUILD_DIR=build/plain $(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$*]"
	$(if $(filter test dev,$*),$(TTSEM))
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info $(REPORT)
