"""Block attention on a GPU, from the public function and the module down to the kernels."""

import copy

import pytest
import torch
from cases.block_attention import LAYOUTS, NAMES, Case, GatherCase

from intraformer_fast import functional as F
from intraformer_fast import nn, reference
from intraformer_fast.bench import parity
from intraformer_fast.ops import routing
from intraformer_fast.ops.block_attention import block_attention
from intraformer_fast.ops.gather_block_attention import gather_block_attention

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# [B, H, n, D] and number of blocks.
SHAPES = {
    "paper": ((16, 4, 256, 128), 4),
    "paper, short runs": ((16, 4, 256, 128), 16),
    "paper, two runs": ((8, 4, 256, 128), 2),
    "paper, one run": ((4, 4, 256, 128), 1),
    "ragged": ((16, 4, 250, 96), 7),
    "demo": ((32, 4, 80, 32), 1),
    "narrow": ((32, 2, 80, 16), 4),
    "wide": ((4, 2, 100, 256), 2),
    "wide, long": ((2, 2, 300, 256), 1),
    "long": ((1, 2, 1000, 64), 1),
    "odd": ((7, 3, 61, 80), 3),
    "a cluster of one": ((99, 2, 1, 24), 1),
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def run(op, case, dtype=None):
    """Output and gradients on the device."""
    q, k, v = (t.to(DEVICE, dtype).detach().requires_grad_() for t in (case.q, case.k, case.v))
    valid = None if case.valid is None else case.valid.to(DEVICE)
    output = op(q, k, v, case.num_blocks, valid=valid, scale=case.scale)
    gradients = torch.autograd.grad(output, (q, k, v), case.grad.to(DEVICE, dtype))
    return dict(zip(NAMES, (output.detach(), *gradients), strict=True))


def assert_parity(case):
    q = case.q.to(DEVICE)
    if q.dtype == torch.float32 and q.shape[-1] > 128:
        (reason,) = routing.not_supported_reasons("block_attention", "triton", q, q, q)
        assert "256 wide" in reason
        return
    assert routing.not_supported_reasons("block_attention", "triton", q, q, q) == []
    verdict = parity.check(
        run(block_attention, case),
        run(reference.block_attention, case),
        run(reference.block_attention, case, torch.float64),
    )
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, dtype, masked):
    assert_parity(Case.draw(*SHAPES[shape], dtype, masked=masked))


@pytest.mark.parametrize("size", [1e-4, 3.0, 10.0])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", ["paper", "paper, one run", "demo"])
def test_magnitudes(shape, dtype, size):
    assert_parity(Case.draw(*SHAPES[shape], dtype, size=size))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["narrow", "odd", "demo"])
def test_layouts(shape, layout):
    assert_parity(Case.draw(*SHAPES[shape], torch.bfloat16, layout=layout))


@pytest.mark.parametrize("setting", ["ieee", "tf32"])
@pytest.mark.parametrize("shape", ["paper", "demo", "paper, one run"])
def test_float32_as_torch_is_told_to_multiply_it(shape, setting):
    case = Case.draw(*SHAPES[shape], torch.float32)
    exact = run(reference.block_attention, case, torch.float64)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = setting
        verdict = parity.check(run(block_attention, case), run(reference.block_attention, case), exact)
    finally:
        matmul.fp32_precision = before
    if setting == "ieee":
        assert verdict.passed, verdict.detail
    else:
        # cuBLAS rounds factors to TF32, the tensor cores drop the bits of Triton's: several times its error, and far from that of
        # 16-bit numbers.
        assert 2**-15 < verdict.relative_l2 < 2**-8


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("neighbors", "num_blocks"), [((32, 80), 1), ((32, 80), 4), ((16, 256), 4)])
def test_gather(neighbors, num_blocks, dtype):
    case = GatherCase.draw(500, 4, 32, neighbors, num_blocks, dtype)
    results = []
    eager = reference.gather_block_attention
    for op, kind in ((gather_block_attention, dtype), (eager, dtype), (eager, torch.float64)):
        tables = tuple(t.to(DEVICE, kind).requires_grad_() for t in case.tables)
        output = op(*tables, case.neighbors.to(DEVICE), num_blocks)
        gradients = torch.autograd.grad(output, tables, case.grad.to(DEVICE, kind))
        results.append(dict(zip(NAMES, (output.detach(), *gradients), strict=True)))
    verdict = parity.check(*results)
    assert verdict.passed, verdict.detail


def test_gather_makes_no_copy_of_the_rows():
    """Forward: nothing as large as one of [B, H, n, D] but the output."""
    case = GatherCase.draw(500, 4, 128, (256, 256), 4, torch.bfloat16)
    tables, neighbors = tuple(t.to(DEVICE) for t in case.tables), case.neighbors.to(DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = F.gather_block_attention(*tables, neighbors, 4)
    size = output.numel() * output.element_size()
    assert size <= torch.cuda.max_memory_allocated() - before < 1.1 * size


@pytest.mark.parametrize("shape", ["paper", "paper, one run", "odd"])
def test_the_same_bits_every_time(shape):
    case = Case.draw(*SHAPES[shape], torch.bfloat16, masked=True)
    first, second = (run(block_attention, case) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@pytest.mark.parametrize("shape", ["paper", "paper, one run", "odd"])
def test_poisoned_padding_changes_no_bit(shape):
    case = Case.draw(*SHAPES[shape], torch.bfloat16, masked=True)
    clean = run(block_attention, case)
    padding = ~case.valid[:, None, :, None].expand_as(case.q)
    for name in ("q", "k", "v", "grad"):
        setattr(case, name, getattr(case, name).masked_fill(padding, torch.nan))
    poisoned = run(block_attention, case)
    assert all(torch.equal(clean[name], poisoned[name]) for name in NAMES)


def test_offsets_are_64_bit():
    """The last cluster of a batch with more than 2^31 numbers."""
    batch, heads, n, width = 2**31 // (2 * 256 * 128) + 2, 2, 256, 128
    x = torch.zeros(batch, heads, n, width, dtype=torch.bfloat16, device=DEVICE)
    x[-1].normal_()
    expected = F.block_attention(x[-1:], x[-1:], x[-1:], 4)
    assert torch.equal(F.block_attention(x, x, x, 4)[-1:], expected)


def test_the_faster_of_two_serves():
    """Float32 gradients of long runs are the reference's, unless torch was told to multiply in TF32."""
    q = torch.randn(2, 2, 64, 32, device=DEVICE).requires_grad_()
    chosen = {}
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    for setting in ("ieee", "tf32"):
        matmul.fp32_precision = setting
        chosen[setting] = routing.select("block_attention", q, q, q, None, 2)
        assert routing.select("block_attention", q, q, q, None, 4).__name__.endswith("ops.block_attention")
        assert routing.select("block_attention", *[q.bfloat16()] * 3, None, 2).__name__.endswith("ops.block_attention")
    matmul.fp32_precision = before
    assert chosen["ieee"] is reference
    assert chosen["tf32"].__name__.endswith("ops.block_attention")
    with torch.no_grad():
        assert routing.select("block_attention", q, q, q, None, 2).__name__.endswith("ops.block_attention")


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic):
    def objective(q, k, v, valid):
        return F.block_attention(q, k, v, 3, valid=valid).square().sum()

    compiled = torch.compile(objective, fullgraph=True, dynamic=dynamic)
    for batch, n in ((4, 24), (5, 37)):
        leaves = [torch.randn(batch, 2, n, 16, device=DEVICE).requires_grad_() for _ in range(3)]
        valid = torch.rand(batch, n, device=DEVICE) < 0.8
        found, expected = (torch.autograd.grad(f(*leaves, valid), leaves) for f in (compiled, objective))
        torch.testing.assert_close(found, expected)


def test_opcheck():
    for layout in ("contiguous", "heads side by side", "one cluster for all"):
        q, k, v = (
            LAYOUTS[layout](torch.randn(2, 2, 20, 16, device=DEVICE)).detach().requires_grad_() for _ in range(3)
        )
        torch.library.opcheck(torch.ops.intraformer_fast.block_attention, (q, k, v, None, 3, 0.25))
    tables = [torch.randn(9, 2, 16, device=DEVICE).requires_grad_() for _ in range(3)]
    neighbors = torch.randint(-1, 9, (4, 7), device=DEVICE)
    torch.library.opcheck(torch.ops.intraformer_fast.gather_block_attention, (*tables, neighbors, 2, 0.25))


def test_second_gradients():
    q, k, v = (torch.randn(2, 2, 6, 4, device=DEVICE).requires_grad_() for _ in range(3))
    results = []
    for op in (block_attention, reference.block_attention):
        (first,) = torch.autograd.grad(op(q, k, v, 2).square().sum(), q, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (q, k, v)))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_autocast_and_graphs():
    q, k, v = (torch.randn(4, 2, 64, 32, device=DEVICE) for _ in range(3))
    with torch.autocast("cuda", torch.bfloat16):
        inside = F.block_attention(q, k.bfloat16(), v, 2)
    outside = F.block_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), 2)
    assert inside.dtype == torch.bfloat16
    assert torch.equal(inside, outside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = F.block_attention(q, k, v, 2)
    q.normal_()
    graph.replay()
    torch.testing.assert_close(captured, F.block_attention(q, k, v, 2), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{"num_subclusters": 4}, {"num_subclusters": 1}, {"num_subclusters": 3, "position": "none"}]
)
def test_the_module(options):
    """Logits and gradients of parameters, by cluster and, where the first block allows it, from tables."""
    fast = nn.Intraformer(64, 40, num_layers=2, num_heads=4, backend="triton", **options).to(DEVICE)
    plain = reference.Intraformer(64, 40, num_layers=2, num_heads=4, **options).to(DEVICE)
    plain.load_state_dict(fast.state_dict())
    exact = copy.deepcopy(plain).double()
    features = torch.nn.functional.normalize(torch.randn(100, 64, device=DEVICE), dim=-1)
    neighbors = torch.randint(-1, 100, (64, 40), device=DEVICE)
    results = []
    for model in (fast, plain, exact):
        logits = model.forward_graph(features.to(model.head.weight.dtype), neighbors)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        results.append({"logits": logits, **{str(i): g for i, g in enumerate(gradients)}})
    for name, f in results[0].items():
        distance = (f - results[2][name]).norm() / results[2][name].norm()
        eager = (results[1][name] - results[2][name]).norm() / results[2][name].norm()
        assert distance <= 3 * eager + 1e-6, name
