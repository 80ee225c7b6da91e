"""The PTX emulator, as a fixture."""

from types import ModuleType

import pytest

from intraformer_fast.bench.facts import ptx as emulator


@pytest.fixture(scope="session")
def ptx() -> ModuleType:
    return emulator
