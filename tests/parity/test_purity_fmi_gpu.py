"""The CUDA loss against the reference in float64. The cases marked `sanitizer` reach the device by copies alone: compute-sanitizer
can then be told to watch our kernels only, and still knows which memory was written."""

import pytest
import torch

from intraformer_fast import functional as F
from intraformer_fast import native, nn, reference
from intraformer_fast.ops import routing

pytestmark = pytest.mark.gpu
DEVICE = "cuda"

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TARGETS = (torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Row stride, column stride and first element of [rows, n].
LAYOUTS = {
    "contiguous": lambda rows, n: (n, 1, 0),
    "transposed": lambda rows, n: (1, rows, 0),
    "every second": lambda rows, n: (2 * n, 2, 0),
    "unaligned": lambda rows, n: (n, 1, 1),
    "wider rows": lambda rows, n: (n + 3, 1, 0),
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def placed(tensor, layout="contiguous"):
    """A copy on the device in that layout; what lies between its elements must never be read."""
    row, column, first = LAYOUTS[layout](*tensor.shape)
    size = first + (tensor.shape[0] - 1) * row + (tensor.shape[1] - 1) * column + 1
    between = torch.nan if tensor.is_floating_point() else 2
    storage = torch.full((size,), between, dtype=torch.float64).to(tensor.dtype)
    storage.as_strided(tensor.shape, (row, column), first).copy_(tensor)
    return storage.to(DEVICE).as_strided(tensor.shape, (row, column), first)


def run(op, prediction, target, valid, from_logits, bound, grads):
    """Loss, purity and gradient, on the CPU."""
    prediction = prediction.detach().requires_grad_()
    outputs = op(prediction, target, from_logits=from_logits, valid=valid, bound=bound)
    upstream = tuple(g.to(outputs[0].dtype).to(prediction.device) for g in grads)
    (gradient,) = torch.autograd.grad(outputs, prediction, upstream)
    return tuple(t.detach().cpu() for t in (*outputs, gradient))


def assert_near(found, prediction, target, valid, from_logits, bound, grads):
    """max|found - ref64| <= 2 max|eager - ref64| + a few units in the last place, for values and gradients; all on the CPU."""
    options = (target, valid, from_logits, bound, grads)
    eager = run(reference.purity_fmi, prediction, *options)
    exact = run(reference.purity_fmi, prediction.double(), *options)
    # The two terms of a gradient may cancel; what they leave is rounding of the size of the terms.
    q = prediction.double().sigmoid() if from_logits else prediction.double()
    summed = (q if valid is None else q.masked_fill(~valid, 0.0)).sum(1)
    terms = (grads[0].abs() + grads[1].abs()).double() / (1.0 if from_logits else summed.where(summed != 0, 1.0))
    # In float64 the reference is its own measure; in float32 the GPU's own exponential is a few units off.
    units = (100 if prediction.dtype == torch.float64 else 8) * torch.finfo(found[0].dtype).eps
    for name, f, e, x in zip(("loss", "purity", "gradient"), found, eager, exact, strict=True):
        assert f.dtype == e.dtype
        assert f.shape == e.shape
        assert torch.equal(f.isnan(), x.isnan()), name
        f, e, x = (t.double().nan_to_num(0.0) for t in (f, e, x))
        scale = max(x.abs().max(), terms.max()) if name == "gradient" else x.abs().max()
        allowed = 2 * (e - x).abs().max() + units * scale
        worst = (f - x).abs().max()
        assert worst <= allowed, f"{name}: {worst:.3g} off, {allowed:.3g} allowed"


def assert_parity(prediction, target, valid=None, *, from_logits=True, bound="dice", layout="contiguous"):
    """Of the CUDA op on tensors that are given on the CPU."""
    grads = torch.randn(len(prediction)), torch.randn(len(prediction))
    on_device = [t if t is None else placed(t, layout) for t in (prediction, target, valid)]
    assert routing.not_supported_reasons("purity_fmi", "cuda", *on_device) == []
    found = run(F.purity_fmi, *on_device, from_logits, bound, grads)
    assert_near(found, prediction, target, valid, from_logits, bound, grads)


def batch(rows, n, dtype, from_logits=True, target_dtype=torch.bool):
    logits = 3 * torch.randn(rows, n, dtype=torch.float64)
    return (logits if from_logits else logits.sigmoid()).to(dtype), (torch.rand(rows, n) < 0.3).to(target_dtype)


def test_the_library_is_loaded():
    assert native.NOT_LOADED == {"cpu": [], "cuda": []}


@pytest.mark.sanitizer
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("n", "layout"), [(1, "contiguous"), (37, "unaligned"), (256, "contiguous"), (1100, "every second")]
)
def test_small_cases(n, layout, dtype, masked):
    prediction, target = batch(9, n, dtype)
    assert_parity(prediction, target, torch.rand(9, n) < 0.7 if masked else None, layout=layout)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("bound", ["dice", "exact"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option(dtype, bound, from_logits, masked):
    for n in (1, 3, 16, 37, 256, 1024, 1025, 4099):
        for target_dtype in TARGETS:
            prediction, target = batch(7, n, dtype, from_logits, target_dtype)
            valid = torch.rand(7, n) < 0.7 if masked else None
            assert_parity(prediction, target, valid, from_logits=from_logits, bound=bound)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout(dtype, layout):
    for n in (5, 255, 2050):
        prediction, target = batch(11, n, dtype, target_dtype=torch.int64)
        assert_parity(prediction, target, torch.rand(11, n) < 0.7, layout=layout)


def test_broadcast_operands_and_gradients():
    prediction, target = (t.to(DEVICE) for t in batch(1, 50, torch.float32))
    leaves = [prediction.clone().requires_grad_() for _ in range(2)]
    sum(t.sum() for t in F.purity_fmi(leaves[0].expand(6, 50), target.expand(6, 50))).backward()
    sum(t.sum() for t in F.purity_fmi(leaves[1], target)).backward()
    torch.testing.assert_close(leaves[0].grad, 6 * leaves[1].grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_padding_stay_where_they_are(dtype):
    prediction, target = batch(5, 70, dtype)
    valid = torch.rand(5, 70) < 0.6
    valid[2, 31], valid[4] = True, False
    prediction[~valid] = torch.nan
    prediction[2, 31] = torch.nan
    grads = torch.randn(5), torch.randn(5)
    loss, purity, gradient = run(F.purity_fmi, *map(placed, (prediction, target, valid)), True, "dice", grads)
    for spoiled in (loss.isnan(), purity.isnan(), gradient.isnan().any(1)):
        assert spoiled.tolist() == [False, False, True, False, False]
    assert (gradient[~valid] == 0).all()
    assert loss[4] == purity[4] == 0


def test_a_target_that_is_neither_0_nor_1_spoils_its_row():
    prediction, target = batch(4, 300, torch.float32, target_dtype=torch.int64)
    target[1, 299] = 2
    loss, purity = F.purity_fmi(placed(prediction), placed(target))
    assert loss.isnan().tolist() == purity.isnan().tolist() == [False, True, False, False]


def test_empty_batches():
    for rows, n in ((0, 5), (3, 0), (0, 0)):
        prediction = torch.empty(rows, n, device=DEVICE, requires_grad=True)
        loss, purity = F.purity_fmi(prediction, torch.empty(rows, n, device=DEVICE))
        (loss.sum() + purity.sum()).backward()
        assert loss.tolist() == purity.tolist() == [0.0] * rows
        assert prediction.grad.shape == (rows, n)


def test_same_bits_every_time_on_any_stream_and_from_any_memory():
    prediction, target = batch(701, 1500, torch.float32)
    on_device = placed(prediction), placed(target), placed(torch.rand(701, 1500) < 0.8)
    grads = torch.randn(701), torch.randn(701)
    first = run(F.purity_fmi, *on_device, True, "dice", grads)
    for _ in range(3):
        with torch.cuda.stream(torch.cuda.Stream()):
            # What the op allocates next held NaN before.
            for size in (701, 3 * 701, 701 * 1500):
                torch.full((size,), torch.nan, device=DEVICE)
            again = run(F.purity_fmi, *on_device, True, "dice", grads)
        assert all(torch.equal(a, f) for a, f in zip(again, first, strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_nothing_waits_for_the_device(masked):
    prediction, target = (placed(t) for t in batch(64, 256, torch.float32))
    valid = placed(torch.rand(64, 256) < 0.7) if masked else None
    objective, leaf = nn.IntraformerLoss(), prediction.clone().requires_grad_()

    def step():
        loss, purity = F.purity_fmi(leaf, target, valid=valid)
        (loss.mean() + purity.mean() + objective(leaf, target, valid, progress=0.7)).backward()

    step()  # loads what torch loads at first use
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked):
    prediction, target = (placed(t) for t in batch(5, 12, torch.float32))
    valid = placed(torch.rand(5, 12) < 0.7) if masked else None
    arguments = (prediction, target, valid, True, False)
    ops = torch.ops.intraformer_fast
    torch.library.opcheck(ops.purity_fmi_forward, (prediction.clone().requires_grad_(), *arguments[1:]))
    loss, purity, sums = ops.purity_fmi_forward(*arguments)
    torch.library.opcheck(ops.purity_fmi_backward, (torch.ones_like(loss), torch.ones_like(purity), sums, *arguments))


@pytest.mark.sanitizer
@pytest.mark.parametrize("detach_point", [True, False])
@pytest.mark.parametrize("counting", ["all", "some", "none"])
@pytest.mark.parametrize("rows", [1, 37, 5000])
def test_means_of_a_batch(rows, counting, detach_point):
    counted = {"all": None, "some": torch.rand(rows) < 0.6, "none": torch.zeros(rows).bool()}[counting]
    values = torch.rand(rows), torch.rand(rows)
    upstream = torch.cat([torch.randn(3), torch.zeros(2)])

    exact = [v.double().requires_grad_() for v in values]
    means = torch.stack(reference.purity_fmi_means(*exact, counted=counted, detach_point=detach_point))
    expected = torch.autograd.grad(means, exact, upstream[:3].double(), materialize_grads=True)

    leaves = [v.to(DEVICE).requires_grad_() for v in values]
    on_device = counted if counted is None else counted.to(DEVICE)
    found = torch.ops.intraformer_fast.purity_fmi_means(*leaves, on_device, detach_point)
    gradients = torch.autograd.grad(found, leaves, upstream.to(DEVICE))
    torch.testing.assert_close(found.detach().cpu()[:3].double(), means.detach(), rtol=1e-5, atol=1e-6)
    for gradient, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.cpu().double(), truth, rtol=1e-4, atol=1e-6)


def test_offsets_of_more_than_31_bits():
    """2^31 elements and more: the last rows lie beyond what 32 bits reach."""
    rows, n = 2**16 + 1, 2**15 + 1
    needed = 14 * 2**30
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"it takes {needed >> 30} GiB of GPU memory, {free >> 30} are free")
    prediction = torch.randn(rows, n, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    target = prediction.detach() > 0.5
    loss, purity = F.purity_fmi(prediction, target)
    ones = torch.ones_like(loss)
    (gradient,) = torch.autograd.grad((loss, purity), prediction, (ones, ones))
    at = torch.tensor([0, 1, rows - 4, rows - 3, rows - 2, rows - 1], device=DEVICE)
    found = [t.detach()[at].cpu() for t in (loss, purity, gradient)]
    assert_near(
        found, prediction.detach()[at].cpu(), target[at].cpu(), None, True, "dice", (ones[at].cpu(), ones[at].cpu())
    )
