"""Block attention on the CPU, whole and from tables, against the reference in float64: as near to it as the reference in the same
dtype is, or twice."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from cases.block_attention import LAYOUTS, Case, GatherCase, assert_parity
from cases.instruction_sets import INSTRUCTION_SETS, run_check

from intraformer_fast import functional as F
from intraformer_fast import native
from intraformer_fast.ops import block_attention, gather_block_attention, routing

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

OPS = torch.ops.intraformer_fast
CPU = torch.device("cpu")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# [B, H, n, D] and number of blocks; many rows, lest the largest error of eager is small by chance.
SHAPES = {
    "paper": ((2, 2, 256, 128), 4),
    "demo": ((4, 4, 80, 32), 4),
    "one block": ((4, 4, 80, 32), 1),
    "three blocks of queries": ((4, 4, 200, 40), 1),
    "ragged": ((24, 3, 37, 24), 5),
    "odd width": ((24, 3, 37, 17), 2),
    "wide": ((2, 1, 66, 300), 1),
    "tokens alone": ((24, 4, 7, 16), 7),
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def backward(gradients, *arguments):
    for to, gradient in zip(gradients, OPS.block_attention_backward(*arguments), strict=True):
        to.copy_(gradient)


# As the cases want their kernels: what they write goes into tensors that are there.
LAUNCH = SimpleNamespace(
    forward=lambda output, *arguments: output.copy_(OPS.block_attention(*arguments)),
    backward=backward,
    gather_forward=lambda output, *arguments: output.copy_(OPS.gather_block_attention(*arguments)),
    gather_backward=OPS.gather_block_attention_backward,
)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape, dtype, masked):
    case = Case.draw(*SHAPES[shape], dtype, masked=masked)
    assert_parity(case, case.run(LAUNCH, CPU))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_strides_change_no_bit(dtype, layout):
    case = Case.draw((5, 3, 61, 24), 2, dtype, masked=True, layout=layout)
    found = case.run(LAUNCH, CPU)
    assert_parity(case, found)
    case.q, case.k, case.v, case.grad = (t.contiguous() for t in (case.q, case.k, case.v, case.grad))
    expected = case.run(LAUNCH, CPU)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e-4, 3.0, 10.0])
def test_magnitudes(size, dtype):
    """From scores that are all alike to one key that takes all."""
    case = Case.draw((6, 3, 80, 16), 3, dtype, size=size)
    assert_parity(case, case.run(LAUNCH, CPU))


@pytest.mark.parametrize("scale", [0.0, -0.7, 2.0])
def test_scales(scale):
    case = Case.draw((6, 3, 80, 16), 2, torch.float32, scale=scale)
    assert_parity(case, case.run(LAUNCH, CPU))


@pytest.mark.parametrize("dtype", FLOATS)
def test_unusual_inputs(dtype):
    shape = (4, 2, 80, 16)
    for fill in (
        lambda: torch.ones(shape),
        lambda: torch.zeros(shape),
        lambda: torch.eye(16)[torch.randint(16, shape[:3])],
        lambda: torch.full(shape, 1e-40),
    ):
        case = Case(*(fill().to(dtype) for _ in range(3)), torch.randn(shape).to(dtype), 2)
        assert_parity(case, case.run(LAUNCH, CPU))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ids", [torch.int64, torch.int32])
@pytest.mark.parametrize(("neighbors", "num_blocks"), [((9, 80), 4), ((30, 37), 1), ((50, 3), 5)])
def test_gather(neighbors, num_blocks, ids, dtype):
    case = GatherCase.draw(40, 3, 24, neighbors, num_blocks, dtype, ids)
    assert_parity(case, case.run(LAUNCH, CPU))


def test_gather_of_rows_that_lie_apart():
    case = GatherCase.draw(40, 3, 24, (9, 80), 4, torch.float32)
    expected = case.run(LAUNCH, CPU)
    case.tables = tuple(torch.randn(40, 3, 3, 48)[:, i, :, ::2].copy_(t) for i, t in enumerate(case.tables))
    case.neighbors = case.neighbors.t().contiguous().t()
    found = case.run(LAUNCH, CPU)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_cut_batch_of_gather_sums_to_the_same_bits():
    # A cluster's waiting gradients are 3 MiB here: five go together.
    case = GatherCase.draw(500, 4, 128, (7, 512), 32, torch.float32)
    found = case.run(LAUNCH, CPU)
    # Other cuts, and a cluster that adds nothing.
    case.neighbors = torch.cat([torch.full((1, 512), -1), case.neighbors])
    case.grad = torch.cat([torch.randn(1, 4, 512, 128), case.grad])
    more = case.run(LAUNCH, CPU)
    assert all(torch.equal(found[name], more[name]) for name in list(found)[1:])
    assert (more["output"][0] == 0).all()
    assert_parity(case, more)


def test_an_id_past_the_tables_is_an_index_error():
    case = GatherCase.draw(40, 3, 24, (2, 9), 1, torch.float32)
    case.neighbors[1, 4] = 40
    with pytest.raises(IndexError, match=r"neighbors\[1, 4\] is 40, and the tables have 40 rows"):
        F.gather_block_attention(*case.tables, case.neighbors, 1)
    with pytest.raises(IndexError):
        OPS.gather_block_attention_backward(case.grad, *case.tables, case.neighbors, 1, 1.0)
    case.neighbors[1, 4] = -(2**62)  # padding, like any negative
    F.gather_block_attention(*case.tables, case.neighbors, 1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", ["ragged", "three blocks of queries"])
def test_poisoned_padding_changes_no_bit(shape, dtype):
    case = Case.draw(*SHAPES[shape], dtype, masked=True)
    padding = ~case.valid[:, None, :, None]
    clean = case.run(LAUNCH, CPU)
    for poison in (torch.nan, torch.inf, -6e4):
        for name in ("q", "k", "v", "grad"):
            setattr(case, name, getattr(case, name).masked_fill(padding, poison))
        found = case.run(LAUNCH, CPU)
        assert all(torch.equal(found[name], clean[name]) for name in clean)
    for result in clean.values():
        assert (result.masked_select(padding) == 0).all()


def test_nan_stays_in_its_run():
    case = Case.draw((2, 3, 40, 16), 4, torch.float32)
    clean = case.run(LAUNCH, CPU)
    case.k = case.k.clone()
    case.k[1, 2, 13, 5] = torch.nan
    spoiled = torch.zeros_like(case.q, dtype=torch.bool)
    spoiled[1, 2, 10:20] = True
    for name, result in case.run(LAUNCH, CPU).items():
        assert torch.equal(result[~spoiled], clean[name][~spoiled])
        assert result[spoiled].isnan().any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits_on_any_threads(dtype):
    case = Case.draw((6, 4, 150, 32), 1, dtype, masked=True)
    gather = GatherCase.draw(40, 3, 24, (30, 80), 4, dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append([*case.run(LAUNCH, CPU).values(), *gather.run(LAUNCH, CPU).values()])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nothing_to_do():
    for shape, blocks in (((0, 2, 8, 16), 2), ((2, 0, 8, 16), 2), ((2, 2, 0, 16), 2), ((2, 2, 8, 0), 2)):
        case = Case.draw(shape, blocks, torch.float32, scale=1.0)
        assert all(t.shape == shape for t in case.run(LAUNCH, CPU).values())
    for samples, neighbors in ((0, (3, 4)), (5, (0, 4)), (5, (3, 0))):
        tables = [torch.randn(samples, 2, 16) for _ in range(3)]
        ids = torch.full(neighbors, -1)
        output = OPS.gather_block_attention(*tables, ids, 2, 1.0)
        assert (output == 0).all()
        for gradient in OPS.gather_block_attention_backward(torch.ones_like(output), *tables, ids, 2, 1.0):
            assert torch.equal(gradient, torch.zeros(samples, 2, 16))


def test_auto_serves_the_cpu_with_it():
    q, k, v = torch.randn(3, 2, 2, 8, 16)
    assert routing.select("block_attention", q, k, v, None) is block_attention
    assert (
        routing.select("gather_block_attention", q[0], k[0], v[0], torch.zeros(1, 2).long()) is gather_block_attention
    )
    # The heads of a token side by side, as the model goes on with them.
    assert F.block_attention(q, k, v, 2).transpose(1, 2).is_contiguous()


def check_this_set():
    for dtype, masked in itertools.product(FLOATS, (False, True)):
        for shape in ("three blocks of queries", "ragged", "odd width"):
            case = Case.draw(*SHAPES[shape], dtype, masked=masked)
            assert_parity(case, case.run(LAUNCH, CPU))
        gather = GatherCase.draw(40, 3, 24, (30, 37), 4, dtype)
        assert_parity(gather, gather.run(LAUNCH, CPU))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_this_set")
