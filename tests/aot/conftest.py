"""The PTX emulator of tests/emulation, as a fixture."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def ptx() -> ModuleType:
    path = Path(__file__).parents[1] / "emulation" / "ptx.py"
    spec = importlib.util.spec_from_file_location("ptx", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
