"""The block-attention kernels against the reference in float64, as near to it as the reference in the same dtype is, or twice."""

import pytest
import torch
from cases.block_attention import LAYOUTS, NAMES, Case, GatherCase, assert_parity

from intraformer_fast.bench import parity
from intraformer_fast.kernels.block_attention import configs, launch
from intraformer_fast.kernels.common import scatter

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# [B, H, n, D] and number of blocks: as small as still tells kernels and tiles apart, since every element is executed in Python.
SHAPES = {
    "several runs a tile": ((3, 2, 24, 16), 8),
    "runs of 64": ((1, 2, 128, 16), 2),
    "ragged": ((3, 2, 37, 16), 4),
    "odd runs, several a tile": ((2, 3, 23, 16), 5),
    "loop": ((2, 1, 70, 16), 1),
    "long loop": ((1, 1, 200, 16), 1),
    "a run of one": ((3, 2, 4, 16), 4),
    "fewer tokens than blocks": ((3, 2, 3, 16), 5),
}
TILE, LOOP = ((3, 2, 60, 16), 4), ((2, 1, 70, 16), 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(device, shape, masked):
    case = Case.draw(*SHAPES[shape], torch.bfloat16, masked=masked)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", ["several runs a tile", "ragged", "loop"])
def test_parity_of_other_dtypes(device, shape, dtype):
    case = Case.draw(*SHAPES[shape], dtype, masked=True)
    assert_parity(case, case.run(launch, device))


@pytest.fixture
def fp32_precision():
    """fp32_precision(name) tells torch how to multiply, until the test is over."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    yield lambda name: setattr(matmul, "fp32_precision", name)
    matmul.fp32_precision = before


@pytest.mark.parametrize("setting", ["ieee", "tf32"])
@pytest.mark.parametrize("shape", [TILE, LOOP])
def test_float32_as_torch_is_told_to_multiply_it(device, shape, setting, fp32_precision):
    fp32_precision(setting)
    case = Case.draw(*shape, torch.float32)
    found = case.run(launch, device)
    if setting == "ieee":
        assert_parity(case, found)
        return
    exact = case.expected(torch.float64)
    errors = {name: float((found[name] - exact[name]).norm() / exact[name].norm()) for name in NAMES}
    # Of factors rounded to 11 significant bits: not those of float32, and not those of bfloat16 with its 8.
    assert all(2**-15 < error < 2**-8 for error in errors.values()), errors


@pytest.mark.parametrize("width", [1, 24, 80, 256])
def test_widths(device, width):
    case = Case.draw((2, 1, 36, width), 3, torch.bfloat16, masked=True)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device, layout):
    for shape in (((2, 2, 24, 16), 2), ((2, 1, 70, 16), 1)):
        case = Case.draw(*shape, torch.bfloat16, layout=layout)
        assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e-4, 10.0])
def test_magnitudes(device, size, dtype):
    """From scores that are all alike to one key that takes all."""
    for shape in (((3, 2, 60, 16), 4), LOOP):
        case = Case.draw(*shape, dtype, size=size)
        assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("scale", [0.0, -0.7, 2.0])
def test_scales(device, scale):
    for shape in (((2, 2, 40, 16), 2), LOOP):
        case = Case.draw(*shape, torch.bfloat16, scale=scale)
        assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unusual_inputs(device, dtype):
    shape = (2, 2, 40, 16)
    for fill in (
        lambda: torch.ones(shape),
        lambda: torch.zeros(shape),
        lambda: torch.eye(16)[torch.randint(16, shape[:3])],
        lambda: torch.full(shape, 1e-40),
    ):
        case = Case(*(fill().to(dtype) for _ in range(3)), torch.randn(shape).to(dtype), 2)
        found, eager, exact = case.run(launch, device), case.expected(dtype), case.expected(torch.float64)
        # Where all terms of a gradient cancel, what is left is rounding, of no size in particular.
        for name in [name for name in NAMES if exact[name].abs().max() < 1e-12]:
            assert found.pop(name).abs().max() < 20 * torch.finfo(dtype).eps
        verdict = parity.check(found, {name: eager[name] for name in found}, {name: exact[name] for name in found})
        assert verdict.passed, verdict.detail


def test_nothing_to_do(device):
    for shape, blocks in (((0, 2, 8, 16), 2), ((2, 0, 8, 16), 2), ((2, 2, 0, 16), 2)):
        results = Case.draw(shape, blocks, torch.float32).run(launch, device)
        assert all(t.shape == shape for t in results.values())


@pytest.mark.parametrize("shape", [TILE, LOOP])
def test_poisoned_padding_changes_no_bit(device, shape):
    case = Case.draw(*shape, torch.bfloat16, masked=True)
    clean = case.run(launch, device)
    padding = ~case.valid[:, None, :, None].expand_as(case.q)
    for t in clean.values():
        assert (t[padding] == 0).all()
    for name in ("q", "k", "v", "grad"):
        setattr(case, name, getattr(case, name).masked_fill(padding, torch.nan))
    poisoned = case.run(launch, device)
    assert all(torch.equal(clean[name], poisoned[name]) for name in NAMES)


@pytest.mark.parametrize("shape", [TILE, LOOP])
def test_the_same_bits_every_time(device, shape):
    case = Case.draw(*shape, torch.bfloat16, masked=True)
    first, second = (case.run(launch, device) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("neighbors", "num_blocks", "dtype", "ids"),
    [
        ((5, 24), 3, torch.bfloat16, torch.int64),
        ((3, 70), 1, torch.bfloat16, torch.int64),
        ((40, 3), 1, torch.float32, torch.int32),
        ((5, 23), 2, torch.float32, torch.int64),
    ],
)
def test_gather(device, neighbors, num_blocks, dtype, ids):
    case = GatherCase.draw(30, 2, 16, neighbors, num_blocks, dtype, ids)
    assert_parity(case, case.run(launch, device))


def test_gather_leaves_rows_that_nobody_names(device):
    case = GatherCase.draw(9, 2, 16, (4, 12), 2, torch.float32)
    case.neighbors[case.neighbors == 5] = 6
    poisoned = tuple(t.index_fill(0, torch.tensor([5]), torch.nan) for t in case.tables)
    clean = case.run(launch, device)
    case.tables = poisoned
    found = case.run(launch, device)
    assert all(torch.equal(clean[name], found[name]) for name in NAMES)
    assert all((found[name][5] == 0).all() for name in NAMES[1:])


@pytest.mark.parametrize("wrong", [30, 2**40, torch.iinfo(torch.int64).max])
def test_an_id_that_is_no_sample_makes_its_run_nan_and_is_never_read(device, wrong):
    case = GatherCase.draw(30, 2, 16, (3, 12), 2, torch.float32)
    expected = case.expected(torch.float32)["output"]
    case.neighbors[1, 2] = wrong
    output = case.run(launch, device)["output"]
    assert output[1, :, :6][:, case.neighbors[1, :6] >= 0].isnan().all()
    output[1, :, :6] = expected[1, :, :6]
    torch.testing.assert_close(output, expected)


def test_every_place_of_a_sample_counts(device):
    """A sample at more places than are summed at once, in several clusters."""
    case = GatherCase.draw(3, 1, 16, (4, 16), 2, torch.float32)
    case.neighbors.fill_(1)
    assert (case.neighbors == 1).sum() > 3 * scatter.PLACES
    assert_parity(case, case.run(launch, device))


def test_plans_hold_what_they_are_for():
    for mode in configs.MODES:
        for width in (1, 16, 24, 64, 80, 128, 256):
            if mode != configs.HALF and width > 128:
                with pytest.raises(ValueError, match="expected at most 128"):
                    configs.plan(mode, width, 16, 80)
                continue
            for longest in (1, 5, 16, 17, 31, 32, 33, 52, 64, 65, 100, 128, 129, 256, 257, 1000):
                for capability in (80, 86, 90, 100, 120):
                    plan = configs.plan(mode, width, longest, capability)
                    for tile in (plan.forward_tile, plan.backward_tile):
                        assert tile is None or tile.rows >= longest
                    assert longest > 16 or (plan.forward_tile and plan.backward_tile)
