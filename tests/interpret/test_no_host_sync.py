"""The launches of Triton kernels are safe in a CUDA graph: nothing on the way to them looks at a number on the device.

On `meta` tensors have no numbers: .item(), .cpu(), a boolean of a tensor and an index by a mask all raise.
"""

import pytest
import torch

from intraformer_fast.kernels.common.launches import Launch
from intraformer_fast.ops import block_attention, correlation_attention, gather_block_attention


@pytest.fixture
def launched(monkeypatch):
    kernels = []
    monkeypatch.setattr(Launch, "run", lambda launch: kernels.append(launch.kernel.__name__))
    return kernels


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_block_attention(launched, dtype, masked):
    q = meta(3, 2, 37, 32, dtype=dtype)
    valid = meta(3, 37, dtype=torch.bool) if masked else None
    assert block_attention._triton_forward(q, q, q, valid, 4, 0.1).shape == q.shape
    block_attention._triton_backward(q, q, q, q, valid, 4, 0.1)
    assert len(launched) >= 2


def test_gather_block_attention(launched):
    table, neighbors = meta(50, 2, 32), meta(3, 37, dtype=torch.int64)
    output = gather_block_attention._triton_forward(table, table, table, neighbors, 4, 0.1)
    gather_block_attention._triton_backward(output, table, table, table, neighbors, 4, 0.1)
    assert len(launched) >= 5  # one forward, one backward, three scatters


@pytest.mark.parametrize("anchor_asks", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_correlation_attention(launched, masked, anchor_asks):
    member, anchor, weight = meta(3, 28, 64), meta(3, 10, 64), meta(3, 64, 64)
    masks = (meta(3, 28, dtype=torch.bool), meta(3, 10, dtype=torch.bool)) if masked else (None, None)
    arguments = (member, anchor, weight, *masks, 3, anchor_asks)
    output = correlation_attention.triton_forward(*arguments)
    correlation_attention.triton_backward(output, *arguments)
    assert len(launched) >= 2


def test_gather_correlation_attention(launched):
    table, weight = meta(50, 64), meta(1, 64, 64)
    ids = (meta(3, 28, dtype=torch.int64), meta(3, 10, dtype=torch.int64))
    arguments = (table, table, weight, None, None, 1, False, *ids)
    output = correlation_attention.triton_forward(*arguments)
    correlation_attention.triton_backward(output, *arguments)
    assert len(launched) >= 3


def test_the_trap_works():
    with pytest.raises((RuntimeError, NotImplementedError)):
        meta(1).item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(meta(1) > 0)
