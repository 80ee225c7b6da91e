"""C-ATT on a GPU against the reference in float64, as near to it as the reference in the same dtype on the same GPU is, or twice."""

import copy

import pytest
import torch
from cases.correlation_attention import LAYOUTS, NAMES, Case

from intraformer_fast import functional as F
from intraformer_fast import nn, reference
from intraformer_fast.bench import parity
from intraformer_fast.kernels.correlation_attention import launch
from intraformer_fast.ops import correlation_attention as op
from intraformer_fast.ops import routing

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
DIRECTIONS = {"member": False, "anchor": True}

# Clusters, tokens of the members and of the anchor, width, streams.
SHAPES = {
    "paper": (40, 192, 64, 512, 3),
    "k = 2": (20, 128, 128, 512, 1),
    "k = 16": (20, 240, 16, 512, 15),
    "k = 5, ragged": (20, 204, 52, 512, 4),
    "full contexts": (9, 256, 256, 512, 1),
    "narrow": (40, 60, 20, 64, 3),
    "80 wide": (40, 60, 20, 80, 3),
    "320 wide": (20, 60, 100, 320, 3),
    "1024 wide": (10, 192, 64, 1024, 3),
    "77 wide": (20, 37, 13, 77, 3),
    "tokens of one": (40, 3, 1, 128, 3),
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def by_op(case, device=DEVICE):
    """Output and gradients through the op, on the CPU."""
    leaves = [t.to(device).detach().requires_grad_() for t in (case.member, case.anchor, case.weight)]
    masks = [t if t is None else t.to(device) for t in (case.valid_member, case.valid_anchor)]
    output = op.cross_attention(*leaves, *masks, num_streams=case.num_streams, anchor_asks=case.anchor_asks)
    gradients = torch.autograd.grad(output, leaves, case.grad.to(device))
    return dict(zip(NAMES, (t.detach().cpu() for t in (output, *gradients)), strict=True))


def assert_parity(case, found):
    """Eager on the GPU; in float64 too, where it is fast."""
    dtype = found["output"].dtype
    verdict = parity.check(found, case.expected(dtype, DEVICE), case.expected(torch.float64, DEVICE))
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, dtype, masked, asks):
    case = Case.draw(*SHAPES[shape], dtype, anchor_asks=DIRECTIONS[asks], masked=masked)
    assert_parity(case, by_op(case))


@pytest.mark.sanitizer
@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 37, 13, 64, 3), (2, 48, 100, 64, 1)])
def test_small_cases(shape, dtype, asks):
    case = Case.draw(*shape, dtype, anchor_asks=DIRECTIONS[asks], masked=True)
    found = case.run(launch, torch.device(DEVICE))
    verdict = parity.check(found, case.expected(dtype), case.expected(torch.float64))
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, asks):
    case = Case.draw(20, 96, 32, 128, 3, torch.bfloat16, anchor_asks=DIRECTIONS[asks], layout=layout)
    assert_parity(case, by_op(case))


@pytest.mark.parametrize("dtype", DTYPES)
def test_functional_with_leading_dimensions(dtype):
    x_query, x_context, grad = (torch.randn(4, 5, n, 128, device=DEVICE, dtype=dtype) for n in (30, 17, 30))
    weight = torch.randn(128, 128, device=DEVICE, dtype=dtype) / 128
    valid = torch.rand(4, 5, 17, device=DEVICE) < 0.7
    valid[0, 0] = False
    assert routing.select("correlation_attention", x_query, x_context, weight, valid) is op

    def run(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x_query, x_context, weight)]
        output = function(*leaves, valid_context=valid)
        gradients = torch.autograd.grad(output, leaves, grad.to(dtype))
        return dict(zip(NAMES, (output, *gradients), strict=True))

    found = run(F.correlation_attention, dtype)
    verdict = parity.check(
        found, run(reference.correlation_attention, dtype), run(reference.correlation_attention, torch.float64)
    )
    assert verdict.passed, verdict.detail
    assert (found["output"][0, 0] == 0).all()


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_padding_changes_nothing(asks):
    case = Case.draw(20, 192, 64, 512, 3, torch.bfloat16, anchor_asks=DIRECTIONS[asks], masked=True)
    found, poisoned = by_op(case), by_op(case.poisoned())
    assert all(torch.equal(found[name], poisoned[name]) for name in NAMES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("asks", DIRECTIONS)
def test_same_bits_every_time(asks, dtype):
    case = Case.draw(40, 192, 64, 512, 3, dtype, anchor_asks=DIRECTIONS[asks], masked=True)
    first = by_op(case)
    for _ in range(3):
        torch.full((40 * 192 * 512 * 4,), torch.nan, device=DEVICE)  # what is allocated next held NaN before
        again = by_op(case)
        assert all(torch.equal(first[name], again[name]) for name in NAMES)


def test_gradients_of_a_sum():
    """Their strides are 0."""
    case = Case.draw(6, 96, 32, 128, 3, torch.bfloat16)
    leaves = [t.to(DEVICE).requires_grad_() for t in (case.member, case.anchor, case.weight)]
    output = op.cross_attention(*leaves, None, None, num_streams=3, anchor_asks=False)
    broadcast = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    ones = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert all(torch.equal(a, b) for a, b in zip(broadcast, ones, strict=True))


def test_autocast():
    x_query, x_context = (torch.randn(4, n, 128, device=DEVICE) for n in (30, 17))
    weight = (torch.randn(128, 128, device=DEVICE) / 128).requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        output = F.correlation_attention(x_query, x_context, weight)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_compiled_into_a_graph(asks):
    case = Case.draw(6, 96, 32, 128, 3, torch.bfloat16, anchor_asks=DIRECTIONS[asks], masked=True)
    tensors = [t.to(DEVICE) for t in (case.member, case.anchor, case.weight, case.valid_member, case.valid_anchor)]
    options = {"num_streams": 3, "anchor_asks": case.anchor_asks}
    compiled = torch.compile(op.cross_attention, fullgraph=True)
    assert torch.equal(compiled(*tensors, **options), op.cross_attention(*tensors, **options))


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_opcheck(asks):
    case = Case.draw(2, 37, 13, 64, 3, torch.float32, anchor_asks=DIRECTIONS[asks], masked=True)
    leaves = [t.to(DEVICE).requires_grad_() for t in (case.member, case.anchor, case.weight)]
    masks = [case.valid_member.to(DEVICE), case.valid_anchor.to(DEVICE)]
    arguments = (*leaves, *masks, 3, case.anchor_asks)
    torch.library.opcheck(torch.ops.intraformer_fast.correlation_attention.default, arguments)


# Sub-clusters, neighbours, whether the Cross-transformers share their weights.
MODELS = {"paper": (4, 256, False), "ragged": (5, 83, False), "shared": (4, 80, True)}


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_model(name, asks, monkeypatch):
    num_subclusters, n, shared = MODELS[name]
    options = {"cross_query": asks, "share_cross_weights": shared}
    fast = nn.Intraformer(128, n, num_subclusters, 2, 4, **options).to(DEVICE)
    eager = reference.Intraformer(128, n, num_subclusters, 2, 4, **options).to(DEVICE)
    eager.load_state_dict(fast.state_dict())
    x = torch.nn.functional.normalize(torch.randn(30, n, 128, device=DEVICE), dim=-1)
    valid = torch.rand(30, n, device=DEVICE) < 0.8
    calls = []
    monkeypatch.setattr(
        op, "cross_attention", lambda *a, _op=op.cross_attention, **k: (calls.append(1), _op(*a, **k))[1]
    )

    def run(model, x):
        logits = model(x, valid)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        return {"logits": logits, **{str(i): g for i, g in enumerate(gradients)}}

    found = run(fast, x)
    assert len(calls) == len(fast.blocks), "one call a layer"
    verdict = parity.check(
        {"logits": found["logits"]},
        {"logits": run(eager, x)["logits"]},
        {"logits": copy.deepcopy(eager).double()(x.double(), valid)},
    )
    assert verdict.passed, verdict.detail
    # Gradients summed over all tokens: near, since twice eager's own error is noise in a parameter that hardly matters.
    for name_of, expected in run(copy.deepcopy(eager).double(), x.double()).items():
        error = (found[name_of].double() - expected).norm()
        assert error <= 1e-4 * expected.norm().clamp(min=1e-3), name_of
