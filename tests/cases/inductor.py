"""For tests that compile with PyTorch's Inductor, which itself compiles C++."""

import os
import shutil

import pytest

COMPILER = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"no {COMPILER} on PATH: PyTorch's Inductor needs a C++ compiler"
)
