"""C-ATT on a GPU against the reference in float64, as near to it as the reference in the same dtype on the same GPU is, or twice."""

import copy

import pytest
import torch
from cases.correlation_attention import LAYOUTS, NAMES, Case

from intraformer_fast import functional as F
from intraformer_fast import nn, reference
from intraformer_fast.bench import parity
from intraformer_fast.ops import correlation_attention as op
from intraformer_fast.ops import gather_correlation_attention as gather_op
from intraformer_fast.ops import routing

launch = pytest.importorskip("intraformer_fast.kernels.correlation_attention.launch", reason="Triton is not installed")
Call = pytest.importorskip("intraformer_fast.kernels.correlation_attention.call").Call

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
    call = case.call(device)
    leaves = [t.detach().requires_grad_() for t in call[:3]]
    if case.member_ids is None and case.anchor_ids is None:
        options = {"num_streams": case.num_streams, "anchor_asks": case.anchor_asks}
        output = op.cross_attention(*leaves, *call[3:5], **options)
    else:
        output = gather_op.cross_attention(Call(*leaves, *call[3:]))
    gradients = torch.autograd.grad(output, leaves, case.grad.to(device))
    return dict(zip(NAMES, (t.detach().cpu() for t in (output, *gradients)), strict=True))


def assert_parity(case, found):
    """Eager on the GPU; in float64 too, where it is fast."""
    dtype = found["output"].dtype
    verdict = parity.check(found, case.expected(dtype, DEVICE), case.expected(torch.float64, DEVICE))
    assert verdict.passed, verdict.detail


# Every test of another width, dtype or mask compiles kernels of its own.
@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, asks):
    case = Case.draw(*SHAPES[shape], torch.bfloat16, anchor_asks=DIRECTIONS[asks], masked=True)
    assert_parity(case, by_op(case))


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parity_without_masks(dtype, asks):
    case = Case.draw(*SHAPES["paper"], dtype, anchor_asks=DIRECTIONS[asks])
    assert_parity(case, by_op(case))


@pytest.mark.parametrize("shape", ["k = 2", "full contexts", "80 wide"])
def test_parity_of_float32(shape):
    case = Case.draw(*SHAPES[shape], torch.float32, masked=True)
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
    tensors = x_query, x_context, weight.requires_grad_(), valid
    # Gradients in float32 off the tensor cores are the one thing that cuBLAS does faster.
    expected = reference if dtype == torch.float32 else op
    assert routing.select("correlation_attention", *tensors) is expected
    assert routing.select("correlation_attention", *tensors, backend="triton") is op

    def run(function, dtype):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x_query, x_context, weight)]
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
    arguments = (*leaves, *masks, 3, case.anchor_asks, False)
    torch.library.opcheck(torch.ops.intraformer_fast.correlation_attention.default, arguments)


# Sub-clusters, neighbours, whether the Cross-transformers share their weights.
MODELS = {"paper": (4, 256, False), "ragged": (5, 83, False), "shared": (4, 80, True)}


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_model(name, asks, monkeypatch):
    num_subclusters, n, shared = MODELS[name]
    options = {"cross_query": asks, "share_cross_weights": shared}
    fast = nn.Intraformer(128, n, num_subclusters, 2, 4, backend="triton", **options).to(DEVICE)
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


# Clusters and tokens of the members and of the anchor, samples in the tables of each (None: members of their own), width, streams.
TABLES = {
    "paper": ((40, 192), (40, 64), (None, 900), 512, 3, False),
    "paper, the anchor asks": ((40, 192), (40, 64), (None, 900), 512, 3, True),
    "two tables": ((40, 64), (40, 64), (900, 900), 512, 1, False),
    "fewer places than samples": ((10, 50), (10, 100), (3000, 3000), 320, 1, False),
    "ragged, fewer places ask": ((20, 61), (20, 21), (300, 3000), 80, 3, True),
    "streams of two tables": ((20, 37), (20, 13), (300, 200), 77, 3, False),
    "full contexts": ((9, 200), (9, 256), (400, 500), 1024, 1, False),
}


def gather(name, dtype, **options):
    *sizes, asks = TABLES[name]
    return Case.gather(*sizes, dtype, anchor_asks=asks, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", TABLES)
def test_tables(name, dtype):
    case = gather(name, dtype)
    assert_parity(case, by_op(case))


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("asks", DIRECTIONS)
def test_small_tables(asks, dtype):
    case = Case.gather((3, 37), (3, 13), (None, 20), 64, 3, dtype, anchor_asks=DIRECTIONS[asks], ids=torch.int32)
    assert_parity(case, by_op(case))


@pytest.mark.parametrize("name", ["paper", "paper, the anchor asks", "two tables"])
def test_the_same_bits_of_tables_every_time(name):
    case = gather(name, torch.bfloat16)
    first = by_op(case)
    for _ in range(3):
        again = by_op(case)
        assert all(torch.equal(first[name], again[name]) for name in NAMES)


@pytest.mark.parametrize("wrong", [900, 2**40, torch.iinfo(torch.int64).max])
def test_an_id_that_is_no_sample_makes_nan(wrong):
    case = gather("two tables", torch.bfloat16)
    expected = by_op(case)["output"]
    case.member_ids[3, 7] = wrong
    case.anchor_ids[5, 1] = wrong
    output = by_op(case)["output"]
    assert output[3, 7].isnan().all()
    assert output[5][case.member_ids[5] >= 0].isnan().all()
    output[3, 7], output[5] = expected[3, 7], expected[5]
    assert torch.equal(output, expected)


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_offsets_into_tables_are_64_bit(asks):
    """The last rows of a table with more than 2^31 numbers."""
    rows = 2**31 // 1024 + 8
    table = torch.empty(rows, 1024, device=DEVICE, dtype=torch.bfloat16)
    table[-8:].normal_()
    near = torch.randint(8, (2, 16), device=DEVICE)
    member = torch.randn(2, 48, 1024, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(3, 1024, 1024, device=DEVICE, dtype=torch.bfloat16) / 1024

    def run(table, ids):
        call = Call(member, table, weight, None, None, 3, DIRECTIONS[asks], anchor_ids=ids)
        return gather_op.cross_attention(call)

    torch.testing.assert_close(run(table, near + rows - 8), run(table[-8:].clone(), near))


def test_tables_are_not_copied_by_place():
    """Forward: Z of the samples beside the output, and nothing as large as the places."""
    case = Case.gather((256, 64), (256, 64), (500, 500), 512, 1, torch.bfloat16)
    tables = [t.to(DEVICE) for t in (case.member, case.anchor, case.weight[0], case.member_ids, case.anchor_ids)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = F.gather_correlation_attention(*tables)
    size, z = (t.numel() * t.element_size() for t in (output, tables[0]))
    assert size <= torch.cuda.max_memory_allocated() - before < 1.1 * (size + z)


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_opcheck_of_tables(asks):
    case = Case.gather((2, 37), (2, 13), (None, 20), 64, 3, torch.float32, anchor_asks=DIRECTIONS[asks])
    call = case.call(DEVICE)
    leaves = [t.requires_grad_() for t in call[:3]]
    torch.library.opcheck(torch.ops.intraformer_fast.gather_correlation_attention.default, (*leaves, *call[3:]))


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("n", [256, 83])
def test_the_model_from_tables(n, asks, monkeypatch):
    """The anchor of the first block from the table; as near to float64 as eager is, or twice."""
    options = {"num_layers": 2, "position": "none", "cross_query": asks}
    fast = nn.Intraformer(128, n, 4, backend="triton", **options).to(DEVICE)
    eager = reference.Intraformer(128, n, 4, **options).to(DEVICE)
    eager.load_state_dict(fast.state_dict())
    features = torch.nn.functional.normalize(torch.randn(400, 128, device=DEVICE), dim=-1)
    neighbors = torch.randint(400, (30, n), device=DEVICE)
    neighbors[torch.rand(30, n, device=DEVICE) < 0.2] = -1
    calls, original = [], gather_op.cross_attention
    monkeypatch.setattr(gather_op, "cross_attention", lambda call: (calls.append(call.anchor.shape), original(call))[1])

    def run(model, features):
        leaf = features.clone().requires_grad_()
        logits = model.forward_graph(leaf, neighbors)
        return {"logits": logits.detach(), "features": torch.autograd.grad(logits.square().sum(), leaf)[0]}

    found = run(fast, features)
    assert calls == [(400 + (asks == "anchor"), 128)]
    exact = run(copy.deepcopy(eager).double(), features.double())
    verdict = parity.check(
        {"logits": found["logits"]}, {"logits": run(eager, features)["logits"]}, {"logits": exact["logits"]}
    )
    assert verdict.passed, verdict.detail
    error = (found["features"].double() - exact["features"]).norm()
    assert error <= 1e-4 * exact["features"].norm()
