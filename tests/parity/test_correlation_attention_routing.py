"""What C-ATT in Triton says of itself: what it cannot serve, and what it serves slower than the reference."""

import pytest
import torch

from intraformer_fast.ops import correlation_attention as op


def tensors(dtype=torch.float32, context=64, width=32, wants_gradient=False):
    weight = torch.empty(width, width, dtype=dtype, requires_grad=wants_gradient)
    return torch.empty(2, 5, width, dtype=dtype), torch.empty(2, context, width, dtype=dtype), weight


def words(*arguments):
    """Of the reasons, but for the device, which is none here, and Triton, which need not be installed."""
    reasons = op.not_supported_reasons("triton", *arguments)
    return [reason for reason in reasons if " is on cpu" not in reason and "triton is not installed" not in reason]


def test_sizes():
    assert words(*tensors(context=256, width=1024)) == []
    assert words(*tensors(width=1025)) == ["the tokens are 1025 wide (it takes 1 to 1024)"]
    assert words(*tensors(context=257)) == ["the context has 257 tokens (it takes up to 256)"]
    assert op.not_supported_reasons("cpu", *tensors(context=257, width=16)) == op.not_supported_reasons(
        "cpu", *tensors(context=256, width=16)
    )


def test_gradients_of_float32_are_faster_by_cublas():
    assert op.slower_reasons("triton", *tensors(wants_gradient=True))
    assert not op.slower_reasons("triton", *tensors())
    assert not op.slower_reasons("triton", *tensors(torch.bfloat16, wants_gradient=True))
    assert not op.slower_reasons("cpu", *tensors(wants_gradient=True))
    assert not op.slower_reasons("triton")
    with torch.no_grad():
        assert not op.slower_reasons("triton", *tensors(wants_gradient=True))


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def test_tf32_is_not_slower(tf32):
    assert not op.slower_reasons("triton", *tensors(wants_gradient=True))
