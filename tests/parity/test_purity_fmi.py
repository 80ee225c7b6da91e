"""The native loss against the reference in float64: as near to it as the reference in the same dtype is, or twice as far."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from cases.instruction_sets import INSTRUCTION_SETS, run_check

from intraformer_fast import functional as F
from intraformer_fast import native, reference
from intraformer_fast.ops import routing

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TARGETS = (torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.t().contiguous().t(),
    "every second": lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
    "sliced": lambda t: torch.cat([t, t, t])[len(t) : 2 * len(t)],
    "wider rows": lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def run(op, prediction, target, valid, from_logits, bound, grads):
    prediction = prediction.detach().requires_grad_()
    outputs = op(prediction, target, from_logits=from_logits, valid=valid, bound=bound)
    (gradient,) = torch.autograd.grad(outputs, prediction, tuple(g.to(outputs[0].dtype) for g in grads))
    return *outputs, gradient


def assert_parity(prediction, target, valid=None, *, from_logits=True, bound="dice", grads=None):
    """max|fast - ref64| <= 2 max|eager - ref64| + a few units in the last place, for values and gradients."""
    assert routing.select("purity_fmi", prediction, target, valid).__name__ == "intraformer_fast.ops.purity_fmi"
    if grads is None:
        grads = (torch.randn(len(prediction)), torch.randn(len(prediction)))
    options = (target, valid, from_logits, bound, grads)
    fast = run(F.purity_fmi, prediction, *options)
    eager = run(reference.purity_fmi, prediction, *options)
    exact = run(reference.purity_fmi, prediction.double(), *options)
    # The two terms of a gradient may cancel; what they leave is rounding of the size of the terms.
    q = prediction.double().sigmoid() if from_logits else prediction.double()
    summed = (q if valid is None else q.masked_fill(~valid, 0.0)).sum(1)
    terms = (grads[0].abs() + grads[1].abs()) / (1.0 if from_logits else summed.where(summed != 0, 1.0))
    # In float64 the reference is its own measure: only the order of the additions differs.
    units = (100 if prediction.dtype == torch.float64 else 4) * torch.finfo(fast[0].dtype).eps
    for name, f, e, x in zip(("loss", "purity", "gradient"), fast, eager, exact, strict=True):
        assert f.dtype == e.dtype
        assert f.shape == e.shape
        assert torch.equal(f.isnan(), x.isnan()), name
        if x.numel() == 0:
            continue
        f, e, x = (t.double().nan_to_num(0.0) for t in (f, e, x))
        scale = torch.stack(
            [x.abs().max(), terms.double().nan_to_num(0.0).max() if name == "gradient" else x.abs().max()]
        )
        allowed = 2 * (e - x).abs().max() + units * scale.max()
        worst = (f - x).abs().max()
        assert worst <= allowed, f"{name}: {worst:.3g} off, {allowed:.3g} allowed"
    return fast


def batch(rows, n, dtype, from_logits=True, target_dtype=torch.bool, positive=0.3):
    logits = 3 * torch.randn(rows, n, dtype=torch.float64)
    prediction = (logits if from_logits else logits.sigmoid()).to(dtype)
    return prediction, (torch.rand(rows, n) < positive).to(target_dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("bound", ["dice", "exact"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option(dtype, bound, from_logits, masked):
    for n, target_dtype in itertools.product((1, 3, 16, 37, 256), TARGETS):
        prediction, target = batch(7, n, dtype, from_logits, target_dtype)
        valid = torch.rand(7, n) < 0.7 if masked else None
        assert_parity(prediction, target, valid, from_logits=from_logits, bound=bound)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target_dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_change_no_bit(dtype, target_dtype, layout):
    prediction, target = batch(9, 1100, dtype, target_dtype=target_dtype)
    valid = torch.rand(9, 1100) < 0.8
    grads = torch.randn(9), torch.randn(9)
    expected = assert_parity(prediction, target, valid, grads=grads)
    found = assert_parity(*map(LAYOUTS[layout], (prediction, target, valid)), grads=grads)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_broadcast_operands_and_gradients():
    prediction, target = batch(1, 50, torch.float32)
    expanded = assert_parity(
        prediction.expand(6, 50), target.expand(6, 50), torch.ones(1, 1).bool().expand(6, 50),
        grads=(torch.ones(()).expand(6), torch.ones(2 * 6)[::2]),
    )  # fmt: skip
    single = assert_parity(prediction, target, grads=(torch.ones(1), torch.ones(1)))
    assert all(torch.equal(e[0], s[0]) for e, s in zip(expanded, single, strict=True))
    # .sum() hands the backward pass a gradient of stride 0.
    leaf = prediction.clone().requires_grad_()
    sum(t.sum() for t in F.purity_fmi(leaf, target)).backward()
    assert torch.equal(leaf.grad, single[2])


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 30.0, 80.0])
def test_magnitudes(magnitude, from_logits):
    logits = magnitude * torch.randn(20, 64)
    prediction = logits if from_logits else logits.abs().clamp(max=1)
    assert_parity(prediction, torch.rand(20, 64) < 0.5, from_logits=from_logits)


def test_rows_of_one_kind():
    n = 40
    one_hot = torch.eye(n)[:6].bool()
    for fill in (-100.0, -20.0, 0.0, 20.0, 100.0, -torch.inf):
        assert_parity(torch.full((6, n), fill), one_hot)
    for targets in (torch.zeros(6, n), torch.ones(6, n)):
        assert_parity(torch.randn(6, n), targets)
    assert_parity(torch.zeros(3, n), torch.zeros(3, n), from_logits=False)
    assert_parity(torch.full((3, n), 1e-40), one_hot[:3], from_logits=False, grads=(torch.ones(3), torch.zeros(3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_never_read(dtype):
    prediction, target = batch(8, 70, dtype, target_dtype=torch.int64)
    valid = torch.rand(8, 70) < 0.5
    valid[3] = False
    grads = torch.randn(8), torch.randn(8)
    clean = run(F.purity_fmi, prediction, target, valid, True, "dice", grads)
    poisoned = run(
        F.purity_fmi,
        prediction.masked_fill(~valid, torch.nan),
        target.masked_fill(~valid, 2**62),
        valid,
        True,
        "dice",
        grads,
    )
    assert all(torch.equal(c, p) for c, p in zip(clean, poisoned, strict=True))
    assert (clean[2][~valid] == 0).all()
    assert clean[0][3] == clean[1][3] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_spoils_its_own_row_only(dtype):
    prediction, target = batch(5, 33, dtype)
    prediction[2, 31] = torch.nan
    valid = torch.rand(5, 33) < 0.8
    valid[2, 31] = True
    loss, purity, gradient = assert_parity(prediction, target, valid)
    for spoiled in (loss.isnan(), purity.isnan(), gradient.isnan().any(1)):
        assert spoiled.tolist() == [False, False, True, False, False]
    assert torch.equal(gradient[2].isnan(), valid[2])


def test_fresh_memory_is_written_whole():
    """With every allocation filled with NaN beforehand, nothing that was left unwritten can pass for a result."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        for n in (1, 15, 16, 17, 1023, 1025):
            prediction, target = batch(4, n, torch.float32)
            assert all(t.isfinite().all() for t in assert_parity(prediction, target, torch.rand(4, n) < 0.5))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def test_same_bits_on_any_number_of_threads():
    prediction, target = batch(701, 256, torch.float32)
    grads = torch.randn(701), torch.randn(701)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 8, 1):
            torch.set_num_threads(count)
            results.append(run(F.purity_fmi, prediction, target, None, True, "dice", grads))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def check_this_set():
    for dtype in DTYPES:
        for n in (5, 64, 1030):
            for from_logits in (True, False):
                prediction, target = batch(20, n, dtype, from_logits)
                assert_parity(prediction, target, torch.rand(20, n) < 0.7, from_logits=from_logits)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_this_set")


def test_an_unknown_instruction_set_is_refused():
    code = "import torch, intraformer_fast.functional as F; F.purity_fmi(torch.zeros(1, 2), torch.zeros(1, 2))"
    environment = {**os.environ, "INTRAFORMER_CPU_ISA": "mmx"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.returncode != 0
    assert "INTRAFORMER_CPU_ISA = 'mmx': this build on this processor has" in found.stderr


@pytest.mark.parametrize(("rows", "n"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_do(rows, n):
    loss, purity, gradient = assert_parity(torch.randn(rows, n), torch.zeros(rows, n))
    assert loss.tolist() == purity.tolist() == [0.0] * rows
    assert gradient.shape == (rows, n)


@pytest.mark.parametrize("dtype", TARGETS[1:])
def test_a_target_outside_0_and_1_is_refused(dtype):
    target = torch.zeros(40, 300, dtype=dtype)
    target[7, 299] = 2
    with pytest.raises(
        ValueError, match="target holds a value other than 0 and 1 in row 7: expected 1 where a neighbor"
    ):
        F.purity_fmi(torch.randn(40, 300), target)
    F.purity_fmi(torch.randn(40, 300), target, valid=target != 2)


@pytest.mark.parametrize("value", [0.5, -1.0, torch.nan, torch.inf])
def test_a_fractional_target_is_refused(value):
    with pytest.raises(ValueError, match="other than 0 and 1 in row 0"):
        F.purity_fmi(torch.randn(1, 3), torch.tensor([[0.0, value, 1.0]]))


def test_negative_zero_is_a_zero():
    for dtype in DTYPES:
        F.purity_fmi(torch.randn(1, 3), torch.tensor([[-0.0, 0.0, 1.0]], dtype=dtype))


def test_offsets_of_more_than_31_bits(tmp_path):
    """Rows 2^31 elements apart, in files that are holes but for what is written here."""
    far = 2**31 + 8

    def spread(name, values):
        storage = torch.from_file(str(tmp_path / name), shared=True, size=2 * far + 8, dtype=values.dtype)
        view = storage.as_strided(values.shape, (far, 1))
        view.copy_(values)
        return view

    prediction, target = batch(3, 8, torch.float32)
    expected = F.purity_fmi(prediction, target)
    found = F.purity_fmi(spread("prediction", prediction), spread("target", target))
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
