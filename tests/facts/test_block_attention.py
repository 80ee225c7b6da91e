"""The facts of the block-attention kernels that are promises: correct, every byte asked for once, nothing multiplied in vain."""

import pytest

from intraformer_fast.bench import registry
from intraformer_fast.bench.facts.cases import FACTS, Facts
from intraformer_fast.bench.facts.rows import CompiledRow, ExecutedRow, facts

pytest.importorskip("triton", reason="Triton is not installed: there is no kernel to look at")


def rows(*labels):
    """Of the cases whose labels end so."""
    registry.load()
    cases = [case for case in FACTS["block_attention"].cases if case.label.endswith(labels)]
    return facts([Facts("block_attention", lambda: cases)], 5, True, print)


def test_the_papers_forward_pass():
    *compiled, executed = rows("forward, 4 x 64")
    assert [row.capability for row in compiled] == [80, 90, 100]
    for row in compiled:
        assert row.stack_bytes == 0
        assert row.issued_flops == row.useful_flops
    assert [row.of_roofline for row in compiled] == [1, 1, 1]
    assert executed.parity == "passed", executed.detail
    assert executed.load_sectors + executed.store_sectors == executed.least_sectors
    assert executed.issued_flops == executed.useful_flops
    assert executed.bank_conflicts == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_backward_loops_and_flex_attention():
    """The loops' trips are as many as the loops; FlexAttention, in mask blocks of 128, multiplies twice what it has to."""
    found = rows("backward, 4 x 64", "forward, 1 x 256", "FlexAttention")
    compiled = [row for row in found if isinstance(row, CompiledRow)]
    executed = [row for row in found if isinstance(row, ExecutedRow)]
    assert len(executed) == 3
    for row in executed:
        assert row.parity == "passed", f"{row.case}: {row.detail}"
        assert row.load_sectors + row.store_sectors >= row.least_sectors
    assert [row.issued_flops / row.useful_flops for row in executed] == [1, 1, 2]
    assert all(row.issued_flops >= row.useful_flops for row in compiled if row.issued_flops is not None)
    unbound = {(row.capability, row.kernel) for row in compiled if row.bound is None}
    assert (100, "loop") in unbound
    assert {capability for capability, _ in unbound} == {100}
