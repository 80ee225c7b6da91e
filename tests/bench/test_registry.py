"""What may be registered, and what the registered cases say of themselves."""

import pytest
import torch

from intraformer_fast.bench import registry
from intraformer_fast.bench.registry import EAGER, OURS, Benchmark, Case, Limit, Work, register

MAKE = lambda inputs: lambda: {}  # noqa: E731
LIMIT = Limit(MAKE, Work(1))


def case(label="a", candidates=(OURS, EAGER), limits=("add",)):
    return Case(label, lambda generator: {}, dict.fromkeys(candidates, MAKE), Work(1), dict.fromkeys(limits, LIMIT))


def test_names_select_benchmarks(tiny):
    assert [b.name for b in registry.select(["tiny", "purity_fmi", "tiny"])] == ["tiny", "purity_fmi"]
    names = [b.name for b in registry.select([])]
    assert names == sorted(registry.BENCHMARKS)
    assert {"purity_fmi", "block_attention_cpu", "tiny"} <= set(names)
    with pytest.raises(ValueError, match=r"^no benchmark 'huge': expected some of .*, cpu, .*, tiny"):
        registry.select(["tiny", "huge"])


def test_a_file_of_cases_stands_for_all_in_it():
    registry.load()
    names = [b.name for b in registry.select(["model_cpu", "cpu"])]
    assert names[0] == "model_cpu"
    assert {"block_attention_cpu", "correlation_attention_cpu", "training_step_cpu"} <= set(names)
    assert len(names) == len(set(names))


def test_a_name_is_registered_once(tiny):
    with pytest.raises(ValueError, match="'tiny' is there already, from tiny_cases"):
        register("tiny", "Another.")(lambda: [case()])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: case(candidates=(OURS,)), "lacks eager"),
        (lambda: case(candidates=("fast", EAGER)), "lacks ours"),
        (lambda: case(limits=()), "no limit"),
        (lambda: case(candidates=(OURS, EAGER, "add")), "add twice"),
        (lambda: Benchmark("b", "", ("cpu",), lambda: []).cases, "at least one"),
        (lambda: Benchmark("b", "", ("cpu",), lambda: [case(), case()]).cases, "no label twice"),
    ],
)
def test_half_a_case_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_purity_fmi_counts_its_least_bytes():
    registry.load()
    cases = {case.label: case for case in registry.BENCHMARKS["purity_fmi"].cases}
    elements, a_row = 4096 * 256, 4096 * 8
    both = cases["[4096, 256] float32 logits, bool targets"]
    assert both.work == Work((5 + 5 + 4) * elements + 2 * a_row)
    assert both.limits["torch.add"].work == Work(8 * elements)
    assert cases["[4096, 256] float32 logits, bool targets, forward only"].work == Work(5 * elements + a_row)
    assert cases["[4096, 256] float32 logits, int64 targets"].work == Work((12 + 12 + 4) * elements + 2 * a_row)
    assert cases["[4096, 256] float32 logits, bool targets, masked"].work == Work((6 + 6 + 4) * elements + 2 * a_row)
    assert cases["[512, 256] bfloat16 logits, bool targets"].work == Work((3 + 3 + 2) * 512 * 256 + 2 * 512 * 8)


def test_purity_fmi_inputs_are_what_the_label_says():
    registry.load()
    for made in registry.BENCHMARKS["purity_fmi"].cases:
        first, again = (made.inputs(torch.Generator().manual_seed(3)) for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        prediction, target = first["prediction"], first["target"]
        shape = list(prediction.shape)
        kind = "probabilities" if "probabilities" in made.label else "logits"
        dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in (prediction, target)]
        assert made.label.startswith(f"{shape} {dtypes[0]} {kind}, {dtypes[1]} targets")
        assert ("valid" in first) == ("masked" in made.label)
        outputs = made.candidates[EAGER](first)()
        assert ("gradient" in outputs) == ("forward only" not in made.label)
