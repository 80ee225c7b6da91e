"""The C-ATT kernels against the reference in float64, as near to it as the reference in the same dtype is, or twice."""

from dataclasses import replace

import pytest
import torch
from cases.correlation_attention import LAYOUTS, NAMES, Case, assert_parity

from intraformer_fast.kernels.correlation_attention import configs, launch
from intraformer_fast.ops import correlation_attention as dense_op
from intraformer_fast.ops import gather_correlation_attention as gather_op

HALF, SINGLE = torch.bfloat16, torch.float32

# Clusters, tokens of the members and of the anchor, width, streams: as small as still tells kernels and tiles apart, since every
# element is executed in Python.
SHAPES = {
    "ragged": (2, 37, 13, 32, 3),
    "one stream": (2, 33, 60, 32, 1),
    "more streams than tokens": (3, 3, 1, 16, 5),
}
LONG = {128: (1, 20, 100, 32, 1), 256: (1, 20, 200, 32, 1)}
DIRECTIONS = {"member": False, "anchor": True}


@pytest.fixture(params=[90, 80], ids=["whole", "chunks and slices"], name="capability")
def by_capability(request, monkeypatch):
    """The kernels that a GPU of that compute capability is given: `whole` ones, or those that read the width in parts."""
    monkeypatch.setattr(configs, "capability_of", lambda device: request.param)


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(device, capability, shape, asks):
    case = Case.draw(*SHAPES[shape], HALF, anchor_asks=DIRECTIONS[asks], masked=True)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_one_matrix_for_all_streams_and_no_mask(device, capability, asks):
    case = Case.draw(2, 37, 13, 32, 3, HALF, anchor_asks=DIRECTIONS[asks], shared=True)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_long_contexts(device, capability, shape, dtype):
    case = Case.draw(*LONG[shape], dtype, masked=True)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, SINGLE])
def test_other_dtypes(device, dtype, asks):
    case = Case.draw(*SHAPES["ragged"], dtype, anchor_asks=DIRECTIONS[asks], masked=True)
    assert_parity(case, case.run(launch, device))


def test_what_serves_the_operators_on_cuda(device):
    case = Case.draw(*SHAPES["ragged"], SINGLE, masked=True)
    arguments = case.call(device)[:7]
    output, projected = dense_op._on_cuda(*arguments, True)
    assert not projected.numel()  # made anew for the gradients there
    gradients = dense_op._backward_on_cuda(case.grad.to(device), projected, *arguments)
    assert_parity(case, dict(zip(NAMES, (t.cpu() for t in (output, *gradients)), strict=True)))


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("shape", [(2, 20, 24, 32, 1), LONG[128], LONG[256]])
def test_float32_where_torch_was_told_tf32(device, tf32, shape):
    case = Case.draw(*shape, SINGLE)
    found, exact = case.run(launch, device), case.expected(torch.float64)
    names = ("output", "grad_anchor")
    errors = {name: float((found[name] - exact[name]).norm() / exact[name].norm()) for name in names}
    # Of factors cut to 11 significant bits in three products: not those of float32, and not those of bfloat16 with its 8.
    assert all(2**-14 < error < 2**-8.5 for error in errors.values()), errors


@pytest.mark.parametrize("width", [24, 80])
def test_widths(device, capability, width):
    """A tile of a power of 2 is wider than most of them; what is no multiple of 16 is made one."""
    case = Case.draw(1, 20, 7, width, 1, HALF)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("width", [24, 144])
def test_widths_of_float32(device, width):
    """The last slice of 144 columns is narrower than the others."""
    case = Case.draw(1, 20, 7, width, 1, SINGLE)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("width", [1, 24])
def test_a_matrix_a_stream_of_odd_widths(device, width):
    case = Case.draw(2, 20, 7, width, 3, HALF)
    assert_parity(case, case.run(launch, device))


@pytest.mark.slow
@pytest.mark.parametrize("asks", DIRECTIONS)
def test_the_papers_size(device, asks):
    case = Case.draw(1, 128, 64, 512, 2, HALF, anchor_asks=DIRECTIONS[asks], shared=True)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("asks", DIRECTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device, layout, asks):
    case = Case.draw(2, 20, 8, 32, 3, HALF, anchor_asks=DIRECTIONS[asks], layout=layout)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("size", [1e-3, 4.0])
def test_magnitudes(device, capability, size):
    """From scores that are all alike to one token that takes all (scores grow with the square). Many rows: where two scores nearly tie,
    a rounding decides, and the largest of few such errors says little."""
    case = Case.draw(8, 24, 16, 32, 1, HALF, size=size)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("asks", DIRECTIONS)
def test_padding_changes_nothing_and_gets_no_gradient(device, capability, asks):
    case = Case.draw(3, 37, 13, 32, 3, HALF, anchor_asks=DIRECTIONS[asks], masked=True)
    found, poisoned = case.run(launch, device), case.poisoned().run(launch, device)
    context = "grad_member" if case.anchor_asks else "grad_anchor"
    valid = case.valid_member if case.anchor_asks else case.valid_anchor
    # The gradient of W is made of queries and of G, which padding of the context does not touch.
    names = [name for name in found if name not in ("grad_weight", context)] + [context]
    for name in names:
        assert torch.equal(found[name], poisoned[name]), name
    assert torch.equal(found["grad_weight"], poisoned["grad_weight"])
    assert (found[context][~valid] == 0).all()


def test_a_context_without_valid_tokens_gives_zeros(device, capability):
    case = Case.draw(3, 20, 9, 32, 1, HALF, masked=True)
    found = case.run(launch, device)
    assert (found["output"][0] == 0).all()
    assert (found["grad_member"][0] == 0).all()
    assert (found["grad_anchor"][0] == 0).all()
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_same_bits_every_time(device, capability):
    case = Case.draw(2, 37, 13, 32, 3, HALF, masked=True)
    first, second = (case.run(launch, device) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("batch", "members", "anchors"), [(0, 6, 2), (2, 0, 2), (2, 6, 0)])
def test_nothing_to_do(device, batch, members, anchors):
    case = Case.draw(batch, members, anchors, 32, 3, HALF)
    found = case.run(launch, device)
    assert all((tensor == 0).all() for tensor in found.values())
    assert found["output"].shape == case.member.shape


def test_every_stream_in_one_launch(device):
    """Two launches forward (Z, attention), four backward, however many streams there are."""
    counts = []
    for streams in (2, 4):
        case = Case.draw(1, 16, 8, 16, streams, HALF)
        counts.append(count_launches(launch.forward, case.call("cpu")))
        counts.append(count_launches(launch.backward, case.grad, case.call("cpu")))
    assert counts == [2, 4, 2, 4]


def count_launches(function, *arguments):
    count = 0

    def record(self):
        nonlocal count
        count += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.Launch, "run", record)
        function(*arguments)
    return count


# Clusters and tokens of the members and of the anchor, samples in the tables of each (None: members of their own), width, streams.
TABLES = {
    "members ask of a table": ((2, 26), (2, 9), (None, 10), 32, 3, False),
    "a table asks": ((2, 26), (2, 9), (None, 10), 32, 3, True),
    "one stream of two tables": ((2, 20), (2, 9), (15, 10), 32, 1, False),
    "one stream of fewer places than samples": ((2, 7), (2, 9), (30, 10), 32, 1, False),
    "streams of two tables": ((2, 11), (2, 5), (15, 10), 32, 3, False),
    "fewer places ask than samples": ((2, 11), (2, 5), (15, 50), 32, 3, True),
}


def gather(name, dtype=HALF, **options):
    *sizes, asks = TABLES[name]
    return Case.gather(*sizes, dtype, anchor_asks=asks, **options)


@pytest.mark.parametrize("name", TABLES)
def test_tables(device, capability, name):
    case = gather(name)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize(
    ("name", "dtype"), [("a table asks", torch.float16), ("one stream of two tables", SINGLE), ("a table asks", SINGLE)]
)
def test_tables_of_other_dtypes_and_ids_of_32_bits(device, name, dtype):
    case = gather(name, dtype, ids=torch.int32)
    assert_parity(case, case.run(launch, device))


def test_tables_of_odd_widths_and_long_contexts(device):
    case = Case.gather((2, 9), (2, 100), (15, 50), 24, 1, HALF)
    assert_parity(case, case.run(launch, device))


@pytest.mark.parametrize("name", ["a table asks", "one stream of fewer places than samples"])
def test_rows_that_nobody_names_are_not_read(device, capability, name):
    """By every second column of wider ids: both their strides count."""
    case = gather(name)
    changes, unnamed = {}, {}
    for part in ("member", "anchor"):
        ids = getattr(case, f"{part}_ids")
        if ids is None:
            continue
        wide = torch.full((ids.shape[0], 2 * ids.shape[1]), -1)
        wide[:, ::2] = ids.masked_fill(ids == 0, 1).masked_fill(ids == 5, 6)
        changes[f"{part}_ids"] = wide[:, ::2]
        unnamed[part] = torch.tensor([0, 5])
    case = replace(case, **changes)
    poisoned = {part: getattr(case, part).index_fill(0, rows, torch.nan) for part, rows in unnamed.items()}
    clean, found = case.run(launch, device), replace(case, **poisoned).run(launch, device)
    for part, rows in unnamed.items():
        assert (found[f"grad_{part}"][rows] == 0).all()
    # Projected once a sample, the product with NaN is NaN in dW; where it is once a place nobody touches it.
    names = [n for n in found if n != "grad_weight" or not launch.asking(case.call("cpu")).once_a_sample]
    assert all(torch.equal(clean[name], found[name]) for name in names)


def test_padding_is_answered_by_zeros_and_gets_no_gradient(device, capability):
    case = gather("one stream of two tables")
    padding = (case.member_ids < 0)[..., None]
    found = case.run(launch, device)
    spoiled = replace(case, grad=case.grad.masked_fill(padding, torch.nan)).run(launch, device)
    assert (found["output"].masked_select(padding) == 0).all()
    assert all(torch.equal(found[name], spoiled[name]) for name in found)
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.parametrize("wrong", [12, 2**40, torch.iinfo(torch.int64).max])
def test_an_id_that_is_no_sample_is_never_read_and_makes_nan(device, wrong):
    case = Case.gather((3, 4), (3, 5), (12, 12), 32, 1, SINGLE)
    expected = case.expected(SINGLE)["output"]
    case.member_ids[1, 2] = wrong
    case.anchor_ids[2, 1] = wrong
    output = case.run(launch, device)["output"]
    assert output[1, 2].isnan().all()
    assert output[2][case.member_ids[2] >= 0].isnan().all()
    output[1, 2], output[2] = expected[1, 2], expected[2]
    torch.testing.assert_close(output, expected)


def test_the_same_bits_of_tables_every_time(device, capability):
    case = gather("a table asks")
    first, second = (case.run(launch, device) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_gradients_that_autograd_gets(device):
    """The function that wraps the kernels on CUDA; here its backward pass is served by them on the CPU."""
    case = gather("a table asks")
    call = case.call(device)
    leaves = [t.requires_grad_() for t in call[:3]]
    with torch.library._scoped_library("intraformer_fast", "IMPL") as library:
        library.impl("gather_correlation_attention_backward", dense_op.triton_backward, "CPU")
        output = gather_op._GatherCorrelationAttention.apply(*leaves, *call[3:])
        gradients = torch.autograd.grad(output, leaves, case.grad.to(device))
    found = dict(zip(NAMES, (t.detach().cpu() for t in (output, *gradients)), strict=True))
    assert_parity(case, found)
