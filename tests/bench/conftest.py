"""A registry of the test's own, a small benchmark in it, and the command run as a person runs it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from intraformer_fast.bench import registry
from intraformer_fast.cli import main


@pytest.fixture
def own_registry(monkeypatch):
    """The real benchmarks; what the test registers is forgotten after it."""
    registry.load()
    monkeypatch.setattr(registry, "BENCHMARKS", dict(registry.BENCHMARKS))
    return registry.BENCHMARKS


@pytest.fixture
def tiny(own_registry, monkeypatch):
    """The module of the benchmarks "tiny" and "wrong", which the process that measures memory can import too."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.delitem(sys.modules, "tiny_cases", raising=False)
    import tiny_cases

    return tiny_cases


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `intraformer-fast bench` in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["intraformer-fast", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code or 0, stdout=out, stderr=err)

    return run
