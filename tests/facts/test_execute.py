"""Triton kernels executed from their PTX: their numbers, their counts, and whether changed PTX is noticed."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from intraformer_fast.bench.facts import execute as module
from intraformer_fast.bench.facts import ptx
from intraformer_fast.bench.facts.compiled import compile_launch
from intraformer_fast.bench.facts.execute import execute
from intraformer_fast.kernels.common.launches import Launch

PROGRAMS, WIDTH = 2, 64
# Rounding of the result and, before it, of the probabilities; TF32 rounds the factors to 11 bits.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 4e-3}


def inputs(length, dtype, width=WIDTH):
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(PROGRAMS, length, width, generator=generator).to(dtype) for _ in range(3)]


def expected(q, k, v):
    scores = np.einsum("bsd,btd->bst", *(t.double().numpy() for t in (q, k))) * q.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return torch.from_numpy(weights / weights.sum(-1, keepdims=True) @ v.double().numpy())


@pytest.mark.parametrize("length", [64, 50])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_attention(attention, dtype, length):
    q, k, v = inputs(length, dtype)
    out = torch.full_like(q, torch.nan)
    counts = execute(attention(q, k, v, out))
    assert (out.double() - expected(q, k, v)).abs().max() < TOLERANCE[dtype]
    assert counts.mma_flops == PROGRAMS * 2 * 2 * 64 * 64 * WIDTH
    sectors = q.numel() * dtype.itemsize // ptx.SECTOR
    assert {name: traffic.sectors for name, traffic in counts.loads.items()} == dict.fromkeys(
        ("p_q", "p_k", "p_v"), sectors
    )
    assert {name: traffic.sectors for name, traffic in counts.stores.items()} == {"p_o": sectors}
    assert counts.loads["p_q"].bytes == q.numel() * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_pipelined_loop_over_ragged_tiles(attention_loop, dtype):
    """Asynchronous copies in groups; the last tile of keys and the last of queries are not full."""
    q, k, v = inputs(80, dtype)
    out = torch.full_like(q, torch.nan)
    counts = execute(attention_loop(q, k, v, out, tile=32))
    assert (out.double() - expected(q, k, v)).abs().max() < TOLERANCE[dtype]
    assert counts.mma_flops == PROGRAMS * 3 * 3 * 2 * 2 * 32 * 32 * WIDTH
    assert counts.loads["p_k"].sectors == 3 * k.numel() * dtype.itemsize // ptx.SECTOR


def test_every_other_element_costs_twice_the_sectors(attention):
    apart = [torch.stack([t, t], -1).flatten(-2) for t in inputs(64, torch.bfloat16)]
    q, k, v, out = (t[..., ::2] for t in (*apart, torch.full_like(apart[0], torch.nan)))
    counts = execute(attention(q, k, v, out))
    assert (out.double() - expected(q, k, v)).abs().max() < TOLERANCE[torch.bfloat16]
    assert counts.sectors == 2 * 4 * q.numel() * 2 // ptx.SECTOR


def test_some_programs(attention):
    q, k, v = inputs(64, torch.bfloat16)
    out = torch.full_like(q, torch.nan)
    counts = execute(attention(q, k, v, out), programs=[(1,)])
    assert out[0].isnan().all()
    assert not out[1].isnan().any()
    assert counts.mma_flops == 2 * 2 * 64 * 64 * WIDTH


def test_arguments_that_share_memory_and_gaps(attention):
    """Slices of one packed tensor: each is written and read in place, and nothing between their rows."""
    packed = torch.cat(inputs(64, torch.bfloat16), -1)
    q, k, v = packed.chunk(3, -1)
    out = torch.full_like(packed, torch.nan)[..., 64:128]
    truth = expected(q, k, v)
    counts = execute(attention(q, k, v, out))
    assert (out.double() - truth).abs().max() < TOLERANCE[torch.bfloat16]
    assert counts.sectors == 4 * q.numel() * 2 // ptx.SECTOR


def test_elements_in_a_gap_are_out_of_bounds(toy_kernels):
    x, y, z = torch.zeros(3, 64)[:, ::2]
    launch = Launch(toy_kernels.add, (1,), {"p_x": x, "p_y": y, "p_z": z, "n": 32}, {"BLOCK": 64}, 1, 1)
    with pytest.raises(ptx.Fault, match=r"between the elements of p_x in: @%p1 ld.global.*toy_kernels.py:\d+"):
        execute(launch)


@pytest.mark.parametrize("n", [101, 128])
def test_reading_beyond_a_tensor(toy_kernels, n):
    x, y, z = torch.zeros(3, 100)
    launch = Launch(toy_kernels.add, (1,), {"p_x": x, "p_y": y, "p_z": z, "n": n}, {"BLOCK": 128}, 4, 1)
    with pytest.raises(ptx.Fault, match=rf"{4 * (n - 100)} bytes beyond p_x\) in: .*toy_kernels.py"):
        execute(launch)


def test_tensors_elsewhere(attention, meta):
    with pytest.raises(ValueError, match="p_q is on meta: expected a tensor on the CPU"):
        execute(attention(*meta(4, (2, 64, 64))))


MUTANTS = {
    "a barrier is missing": (r"bar\.sync\s+0;", "", "race in shared memory"),
    "a copy is not waited for": (r"cp\.async\.wait_group\s+\d+;", "", "asynchronous copy to the same place is not waited for"),
    "one group more may be open": (
        r"cp\.async\.wait_group\s+(\d+);", lambda m: f"cp.async.wait_group {int(m[1]) + 1};",
        "asynchronous copy to the same place is not waited for",
    ),
    "a mask is missing": (r"@%p\d+ (st\.global)", r"\1", "out of bounds"),
    "another lane": (r"shfl\.sync\.bfly\.b32(.*), 2, 31, -1;", r"shfl.sync.bfly.b32\1, 4, 31, -1;", "two threads write different"),
    "another matrix": (r"\.x4\.trans", ".x4", None),
    "a smaller exponent": (r"ex2\.approx\.ftz\.f32(\s+)(%r\d+), (%r\d+)", r"mov.b32\1\2, \3", None),
    "an instruction of another GPU": (r"ex2\.approx\.ftz\.f32", "ex3.approx.ftz.f32", "not covered"),
    "another shape": (r"m16n8k16\.row\.col\.f32", "m16n8k32.row.col.f32", "not covered"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_changed_ptx_is_noticed(attention_loop, monkeypatch, mutant):
    """Every occurrence is changed: a fault in the words given, or else a wrong result."""
    pattern, replacement, words = MUTANTS[mutant]
    q, k, v = inputs(50, torch.bfloat16)
    original = compile_launch(attention_loop(q, k, v, torch.empty_like(q), tile=32), 80)
    changed = re.sub(pattern, replacement, original.ptx)
    assert changed != original.ptx
    replace_ptx(monkeypatch, original, changed)
    out = torch.full_like(q, torch.nan)
    launch = attention_loop(q, k, v, out, tile=32)
    if words:
        with pytest.raises(ptx.Fault, match=words):
            execute(launch, programs=[(1, 1)])
    else:
        execute(launch, programs=[(0, 0)])
        error = (out[0, :32].double() - expected(q, k, v)[0, :32]).abs().max()
        assert not error < TOLERANCE[torch.bfloat16]


def test_every_single_barrier_is_missed(attention, monkeypatch):
    q, k, v = inputs(50, torch.bfloat16)
    launch = attention(q, k, v, torch.empty_like(q))
    original = compile_launch(launch, 80)
    barriers = list(re.finditer(r"bar\.sync\s+0;", original.ptx))
    assert len(barriers) >= 5
    for barrier in barriers:
        without = original.ptx[: barrier.start()] + original.ptx[barrier.end() :]
        replace_ptx(monkeypatch, original, without)
        with pytest.raises(ptx.Fault, match="race in shared memory"):
            execute(launch, programs=[(0,)])


def replace_ptx(monkeypatch, compiled, text):
    changed = dataclasses.replace(compiled, ptx=text)
    monkeypatch.setattr(module, "compile_launch", lambda launch, capability: changed)
