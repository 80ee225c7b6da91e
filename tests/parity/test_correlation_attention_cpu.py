"""C-ATT on the CPU, all streams at once, against the reference in float64: as near to it as the reference in the same dtype is, or
twice."""

import itertools

import pytest
import torch
from cases.instruction_sets import INSTRUCTION_SETS, run_check

from intraformer_fast import functional as F
from intraformer_fast import native
from intraformer_fast.bench import parity
from intraformer_fast.ops import correlation_attention, routing

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)


FLOATS = (torch.float32, torch.bfloat16, torch.float16)
NAMES = ("output", "grad_member", "grad_anchor", "grad_weight")

# B, r, s, d, streams, weights
SHAPES = {
    "demo": (6, 60, 20, 128, 3, 3),
    "paper": (2, 192, 64, 256, 3, 3),
    "ragged, one weight": (9, 31, 11, 24, 3, 1),
    "two blocks of queries": (3, 180, 90, 48, 2, 2),
    "odd width": (6, 40, 40, 33, 1, 1),
    "tokens alone": (20, 7, 1, 16, 7, 7),
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def draw(shape, dtype=torch.float32, masked=False, size=1.0):
    """(member, anchor, weight, valid_member, valid_anchor) and the gradient of the output."""
    batch, members, anchors, width, streams, weights = shape
    tensors = (
        size * torch.randn(batch, members, width),
        size * torch.randn(batch, anchors, width),
        torch.randn(weights, width, width) / width,
    )
    masks = [None, None]
    if masked:
        masks = [torch.rand(batch, length) < 0.7 for length in (members, anchors)]
        for mask in masks:
            mask[0] = False
    return [t.to(dtype) for t in tensors] + masks, torch.randn(batch, members, width).to(dtype), streams


def run(op, tensors, grad, streams, anchor_asks, dtype=None):
    *factors, valid_member, valid_anchor = tensors
    factors = [t.to(dtype or t.dtype).detach().requires_grad_() for t in factors]
    output = op(*factors, valid_member, valid_anchor, streams, anchor_asks)
    gradients = torch.autograd.grad(output, factors, grad.to(output.dtype))
    return dict(zip(NAMES, (output.detach(), *gradients), strict=True))


def assert_parity(tensors, grad, streams, anchor_asks):
    found = run(correlation_attention.attended, tensors, grad, streams, anchor_asks)
    eager = run(correlation_attention.streams, tensors, grad, streams, anchor_asks)
    exact = run(correlation_attention.streams, tensors, grad, streams, anchor_asks, torch.float64)
    verdict = parity.check(found, eager, exact)
    assert verdict.passed, verdict.detail
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("anchor_asks", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, dtype, anchor_asks, masked):
    assert_parity(*draw(SHAPES[shape], dtype, masked), anchor_asks)


@pytest.mark.parametrize("size", [1e-4, 3.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_magnitudes(dtype, size):
    assert_parity(*draw((12, 60, 20, 64, 3, 3), dtype, size=size), False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("anchor_asks", [False, True])
def test_strides_change_no_bit(anchor_asks, dtype):
    tensors, grad, streams = draw(SHAPES["ragged, one weight"], dtype, masked=True)
    expected = run(correlation_attention.attended, tensors, grad, streams, anchor_asks)
    for layout in (
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda t: t.repeat_interleave(2, -1)[..., ::2],
    ):
        found = run(correlation_attention.attended, list(map(layout, tensors)), layout(grad), streams, anchor_asks)
        assert all(torch.equal(found[name], expected[name]) for name in NAMES)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("anchor_asks", [False, True])
def test_poisoned_padding_changes_no_bit(anchor_asks, dtype):
    tensors, grad, streams = draw(SHAPES["ragged, one weight"], dtype, masked=True)
    clean = run(correlation_attention.attended, tensors, grad, streams, anchor_asks)
    looked_at = 0 if anchor_asks else 1
    padding = ~tensors[3 + looked_at][..., None]
    for poison in (torch.nan, torch.inf, -6e4):
        tensors[looked_at] = tensors[looked_at].masked_fill(padding, poison)
        found = run(correlation_attention.attended, tensors, grad, streams, anchor_asks)
        assert all(torch.equal(found[name], clean[name]) for name in NAMES)
    assert (clean[NAMES[1 + looked_at]].masked_select(padding) == 0).all()
    # A cluster that may look at nothing.
    assert (clean["output"][0] == 0).all()


@pytest.mark.parametrize("anchor_asks", [False, True])
def test_same_bits_on_any_threads(anchor_asks):
    tensors, grad, streams = draw(SHAPES["two blocks of queries"])
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(run(correlation_attention.attended, tensors, grad, streams, anchor_asks))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in NAMES)


@pytest.mark.parametrize("anchor_asks", [False, True])
@pytest.mark.parametrize("shape", [(0, 6, 2, 16, 3, 3), (2, 0, 2, 16, 3, 1), (2, 2, 1, 16, 3, 3)])
def test_empty_streams(shape, anchor_asks):
    tensors, grad, streams = draw(shape)
    found = assert_parity(tensors, grad, streams, anchor_asks)
    assert all(not t.isnan().any() for t in found.values())


def test_no_anchor_at_all_gives_zeros():
    tensors, grad, streams = draw((2, 6, 0, 16, 3, 3))
    found = run(correlation_attention.attended, tensors, grad, streams, False)
    assert all((t == 0).all() for t in found.values())


def test_the_public_function_is_served_by_it():
    x, context, weight = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 7, 16), torch.randn(16, 16)
    valid = torch.rand(2, 3, 7) < 0.7
    assert routing.select("correlation_attention", x, context, weight, valid) is correlation_attention
    found = F.correlation_attention(x, context, weight, valid_context=valid)
    exact = F.correlation_attention(x.double(), context.double(), weight.double(), valid_context=valid)
    torch.testing.assert_close(found, exact.float())


def check_this_set():
    for dtype, masked, anchor_asks in itertools.product(FLOATS, (False, True), (False, True)):
        for shape in ("ragged, one weight", "two blocks of queries", "odd width"):
            assert_parity(*draw(SHAPES[shape], dtype, masked), anchor_asks)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_this_set")
