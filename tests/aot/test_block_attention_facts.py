"""What Triton makes of the block-attention kernels, for every tile that the launches can choose: no spilled register, no more shared
memory than a GPU has, tensor cores where there should be. Compiled, never run on a GPU: facts about the code, not speeds."""

import pytest
import torch

from intraformer_fast.bench.facts.compiled import compile_launch
from intraformer_fast.kernels.block_attention import configs, launch

# Bytes a program may have: of the smallest GPU that takes the table of the family (8.6 and 12.0 for that of 8.0).
SHARED = {80: 99 << 10, 90: 227 << 10, 100: 227 << 10}
DTYPES = {configs.HALF: torch.bfloat16}
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
MATRIX = tuple(TENSOR_CORE.values())


def launches(family: int, mode: str, width: int, longest: int, kind: str):
    """All that a plan may launch, on clusters with padding (which takes the most registers) or on tables."""
    plan = configs.plan(mode, width, longest, family, gather=kind == "gather")
    dtype = DTYPES.get(mode, torch.float32)

    def heads():
        return torch.empty(8, longest, 4, width, dtype=dtype, device="meta").transpose(1, 2)

    inputs = [heads() for _ in range(3)]
    options = {"valid": torch.empty(8, longest, dtype=torch.bool, device="meta")}
    if kind == "gather":
        inputs = [torch.empty(1, 4, 1000, width, dtype=dtype, device="meta")] * 3
        options = {"neighbors": torch.empty(8, longest, dtype=torch.int64, device="meta")}
    yield from launch.forward_launches(heads(), *inputs, 1, 0.1, plan=plan, **options)
    yield from launch.backward_launches((heads(), heads(), heads()), heads(), *inputs, 1, 0.1, plan=plan, **options)


@pytest.mark.parametrize("kind", ["masked", "gather"])
@pytest.mark.parametrize("mode", configs.MODES)
@pytest.mark.parametrize("family", configs.FAMILIES)
def test_no_spills_and_enough_shared_memory(family, mode, kind, monkeypatch):
    monkeypatch.setattr(launch, "mode", lambda dtype: mode)
    seen = set()
    for of_family, of_mode, width, longest in configs.all_cases():
        if (of_family, of_mode) != (family, mode):
            continue
        for one in launches(family, mode, width, longest, kind):
            what = (
                one.kernel.fn.__qualname__,
                one.kernel.__module__,
                tuple(one.constexprs.items()),
                one.num_warps,
                one.num_stages,
            )
            if what in seen:
                continue
            seen.add(what)
            compiled = compile_launch(one, family)
            assert compiled.stack_bytes == 0, f"{what} spills {compiled.stack_bytes} bytes a thread"
            assert compiled.shared_bytes <= SHARED[family], (
                f"{what} needs {compiled.shared_bytes} bytes of shared memory"
            )
            # In PTX, which is read faster than machine code.
            names = {name for name in MATRIX if name in compiled.ptx}
            assert bool(names) == (mode != configs.IEEE), what
            # Smaller tiles, and the transposed products of TF32, have no instruction of their own after 8.0.
            if mode == configs.HALF and min(one.constexprs["ROWS"], one.constexprs.get("KEYS", 64)) >= 64:
                assert names == {TENSOR_CORE[family]}, what
    assert len(seen) >= 5
