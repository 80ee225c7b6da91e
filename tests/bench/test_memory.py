"""Peak extra memory, against steps that hold a known amount."""

import os
import subprocess
import sys

import pytest
import torch

from intraformer_fast import native
from intraformer_fast.bench import memory

pytestmark = pytest.mark.skipif(
    not memory.CLEAR_REFS.exists(), reason="only Linux can reset the high water of a process"
)
MIB = 2**20


def measured(code):
    """The integers that a process prints whose heap gives back what is freed."""
    environment = {**os.environ, **memory.GIVE_BACK_AT_ONCE}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


def test_a_step_is_charged_what_it_holds_at_most():
    at_once, in_turn, nothing = measured("""
import torch
from intraformer_fast.bench import memory
def ones(mib):
    return torch.ones(mib * 2**20 // 4)
def at_once():
    return sum(float(block[0]) for block in [ones(16) for _ in range(8)])
def in_turn():
    return sum(float(ones(64)[0]) for _ in range(4))
for step in at_once, in_turn, lambda: None:
    print(memory.extra_bytes(step, torch.device("cpu")))
""")
    assert at_once == pytest.approx(128 * MIB, abs=8 * MIB)
    assert in_turn == pytest.approx(64 * MIB, abs=8 * MIB)
    assert nothing < 4 * MIB


def test_a_process_of_its_own_measures_each_candidate(tiny, own_registry):
    benchmark = own_registry["tiny"]
    found = memory.measure(benchmark, benchmark.cases[0], torch.device("cpu"))
    one = tiny.BYTES / 2
    assert found.keys() == {"ours", "eager"}  # "absent" does not run
    assert found["ours"] == pytest.approx(one, abs=2 * MIB)
    assert found["eager"] == pytest.approx(2 * one, abs=2 * MIB)


def test_a_process_that_dies_says_why(tiny, own_registry, monkeypatch):
    benchmark = own_registry["tiny"]
    monkeypatch.setattr(tiny.tiny, "__module__", "no_such_module")
    with pytest.raises(RuntimeError, match=r"(?s)failed for tiny, .*no_such_module"):
        memory.measure(benchmark, benchmark.cases[0], torch.device("cpu"))


@pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)
def test_purity_fmi_holds_the_gradient_and_a_few_numbers_a_row():
    gradient, ours, eager = measured("""
import torch
from intraformer_fast.bench import memory, registry
registry.load()
case = registry.BENCHMARKS["purity_fmi"].cases[0]
inputs = case.inputs(torch.Generator())
print(inputs["prediction"].nbytes)
for name in registry.OURS, registry.EAGER:
    print(memory.extra_bytes(case.candidates[name](inputs), torch.device("cpu")))
""")
    assert 0.9 * gradient < ours < 1.2 * gradient
    assert eager > 2 * gradient
