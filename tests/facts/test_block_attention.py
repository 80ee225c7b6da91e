"""The facts of the block-attention kernels that are promises: correct, every byte asked for once, nothing multiplied in vain."""

import pytest

from intraformer_fast.bench import registry
from intraformer_fast.bench.facts.cases import FACTS
from intraformer_fast.bench.facts.rows import CompiledRow, ExecutedRow, facts

pytest.importorskip("triton", reason="Triton is not installed: there is no kernel to look at")


def rows(all_cases):
    registry.load()
    return facts([FACTS["block_attention"]], 5, all_cases, print)


def test_the_papers_forward_pass():
    *compiled, executed = rows(all_cases=False)
    assert [row.capability for row in compiled] == [80, 90, 100]
    for row in compiled:
        assert row.stack_bytes == 0
        assert row.issued_flops == row.useful_flops
    assert [row.of_roofline for row in compiled] == [1, 1, None]
    assert executed.parity == "passed", executed.detail
    assert executed.load_sectors + executed.store_sectors == executed.least_sectors
    assert executed.issued_flops == executed.useful_flops
    assert executed.bank_conflicts == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_case():
    found = rows(all_cases=True)
    for row in found:
        if isinstance(row, ExecutedRow):
            assert row.parity == "passed", f"{row.case}: {row.detail}"
            assert row.load_sectors + row.store_sectors >= row.least_sectors
        assert row.issued_flops is None or row.issued_flops >= row.useful_flops
    compiled = [row for row in found if isinstance(row, CompiledRow)]
    assert {row.capability for row in compiled if row.bound is None} == {100}
    flex = [row for row in found if isinstance(row, ExecutedRow) and row.case.endswith("FlexAttention")]
    assert [row.issued_flops / row.useful_flops for row in flex] == [2]
