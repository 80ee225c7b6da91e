"""The CUDA source of purity_fmi, run on the CPU: right over the parity matrix, silent under sanitizers, and each mutant caught."""

import itertools
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intraformer_fast import reference
from intraformer_fast.reference.losses import masked_mean

CSRC = Path(__file__).resolve().parents[2] / "csrc"

SIZES = (1, 2, 31, 32, 33, 80, 255, 256, 257, 1000, 4096 + 3)
BOUNDS = ("dice", "exact")
LAYOUTS = ("contiguous", "unaligned", "padded rows", "transposed", "every second", "expanded")


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same values in another place: the memory around them holds what must never be read into a result."""
    rows, columns = values.shape
    size, strides, offset = {
        "contiguous": (rows * columns, (columns, 1), 0),
        "unaligned": (rows * columns + 1, (columns, 1), 1),
        "padded rows": ((rows - 1) * (columns + 5) + columns, (columns + 5, 1), 0),
        "transposed": (rows * columns, (1, rows), 0),
        "every second": ((rows * columns - 1) * 2 + 1, (columns * 2, 2), 0),
        "expanded": (columns, (0, 1), 0),
    }[layout]
    poison = torch.nan if values.is_floating_point() else 1
    view = torch.full((max(size, 0),), poison, dtype=values.dtype).as_strided(values.shape, strides, offset)
    if layout == "expanded":
        view[:1].copy_(values[:1])
    else:
        view.copy_(values)
    return view


class Maker:
    """Makes cases of random numbers."""

    def __init__(self, case_type: type, seed: int) -> None:
        self.case_type = case_type
        self.generator = torch.Generator().manual_seed(seed)
        self.choices = random.Random(seed).choices

    def normal(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def bits(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) < 0.5

    def batch(self, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """A loss and a purity for each row."""
        return self.normal(rows, dtype=dtype).sigmoid(), self.normal(rows, dtype=dtype).sigmoid()

    def rows(
        self,
        columns: int,
        *,
        rows: int | None = None,
        prediction: torch.dtype = torch.float32,
        target: torch.dtype = torch.bool,
        masked: bool = False,
        from_logits: bool = True,
        bound: str = "dice",
        layouts: Sequence[str] = ("contiguous", "contiguous", "contiguous"),
        order: int = 0,
    ):
        rows = (3 if columns > 1024 else 9) if rows is None else rows
        values = 3 * self.normal(rows, columns, dtype=torch.float64)
        values = (values if from_logits else values.sigmoid()).to(prediction)
        grad = torch.float64 if prediction == torch.float64 else torch.float32
        valid = laid_out(self.bits(rows, columns), layouts[2]) if masked else None
        prediction_layout = "contiguous" if layouts[0] == "expanded" else layouts[0]
        return self.case_type(
            laid_out(values, prediction_layout),
            laid_out(self.bits(rows, columns).to(target), layouts[1]),
            valid,
            from_logits,
            bound,
            self.normal(rows, dtype=grad),
            self.normal(1, dtype=grad).expand(rows),
            order,
        )


@pytest.fixture
def maker(rows_case: type) -> Maker:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return Maker(rows_case, seed)


def expected(case, dtype: torch.dtype) -> list[Tensor]:
    """Loss, purity and gradient of the reference, computed in `dtype`."""
    prediction = case.prediction.detach().to(dtype).requires_grad_()
    loss, purity = reference.purity_fmi(
        prediction, case.target, from_logits=case.from_logits, valid=case.valid, bound=case.bound
    )
    upstream = [case.grad_loss.to(loss.dtype), case.grad_purity.to(loss.dtype)]
    (gradient,) = torch.autograd.grad([loss, purity], [prediction], upstream)
    return [loss.detach(), purity.detach(), gradient]


def gradient_terms(case) -> float:
    """The largest terms that a gradient is the difference of: each is a share of 1 / P, which is large where little is predicted."""
    q = case.prediction.double()
    if case.valid is not None:
        q = q.masked_fill(~case.valid, 0.0 if not case.from_logits else -torch.inf)
    q = q.sigmoid() if case.from_logits else q
    slope = (q * (1 - q)).amax(-1) if case.from_logits else torch.ones(len(q))
    weight = case.grad_loss.abs() + case.grad_purity.abs()
    return float((weight * slope / q.sum(-1)).nan_to_num(0.0, 0.0).max())


def assert_close(case, results: list[Tensor]) -> None:
    """At most twice the error that eager makes in the same dtype, both against float64, plus a few roundings."""
    loss, purity, _, gradient = results
    exact, eager = expected(case, torch.float64), expected(case, case.prediction.dtype)
    for name, fast, same, truth in zip(
        ("loss", "purity", "gradient"), (loss, purity, gradient), eager, exact, strict=True
    ):
        where = f"{name} of {tuple(case.prediction.shape)} {case.prediction.dtype} {case.target.dtype} {case.bound}"
        assert torch.equal(fast.isnan(), truth.isnan()), f"{where}: NaN in other places"
        if not truth.numel():
            continue
        fast, same, truth = (t.double().nan_to_num(0.0) for t in (fast, same, truth))
        size = max(1.0, float(truth.abs().max()))
        if name == "gradient":
            size = max(size, gradient_terms(case))
        rounding = 8 * torch.finfo(loss.dtype).eps * size
        if name == "gradient":  # one rounding to its dtype, which eager may have had the luck not to need
            rounding += torch.finfo(gradient.dtype).eps / 2 * float(truth.abs().max())
        error, eager_error = float((fast - truth).abs().max()), float((same - truth).abs().max())
        assert error <= 2 * eager_error + rounding, f"{where}: error {error:.3g}, eager's {eager_error:.3g}"


def check(harness, cases: Iterable) -> None:
    cases = list(cases)
    for case, results in zip(cases, harness.run(cases), strict=True):
        assert_close(case, results)


def matrix(maker: Maker, prediction: torch.dtype, targets: tuple[torch.dtype, ...], sizes=SIZES) -> Iterator:
    """Every combination of size, target type, mask, input kind and bound, each in layouts drawn at random and an order of its own."""
    combinations = itertools.product(sizes, targets, (False, True), (True, False), BOUNDS)
    for index, (columns, target, masked, from_logits, bound) in enumerate(combinations):
        yield maker.rows(
            columns, prediction=prediction, target=target, masked=masked, from_logits=from_logits, bound=bound,
            layouts=maker.choices(LAYOUTS, k=3), order=index,
        )  # fmt: skip


@pytest.mark.parametrize("prediction", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_parity_matrix(harness, maker, prediction):
    check(harness("plain", 24), matrix(maker, prediction, (torch.bool, torch.int64, torch.float32)))


def test_rare_target_types(harness, maker):
    cases = list(matrix(maker, torch.float32, (torch.float64, torch.float16, torch.bfloat16), sizes=(33, 257)))
    cases += list(matrix(maker, torch.bfloat16, (torch.float64, torch.float16, torch.bfloat16), sizes=(33, 257)))
    check(harness("plain", 24), cases)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("from_logits", [True, False])
def test_zero_denominators(harness, maker, bound, from_logits):
    nothing = -torch.inf if from_logits else 0.0
    case = maker.rows(80, masked=True, from_logits=from_logits, bound=bound, rows=5)
    case.prediction[0] = nothing  # P = 0
    case.target[1] = False  # T = 0
    case.prediction[2], case.target[2] = nothing, False  # both
    case.valid[3] = False  # padding alone
    case.prediction[3] = torch.nan
    ((loss, purity, sums, gradient),) = harness("plain", 3).run([case])
    assert_close(case, [loss, purity, sums, gradient])
    assert loss[:4].tolist() == [1, 1, 0, 0]
    assert purity[:4].tolist() == [0, 0, 0, 0]
    assert gradient[3].eq(0).all()


@pytest.mark.parametrize("columns", [80, 2000])
def test_nan_stays_in_its_row(harness, maker, columns):
    clean = maker.rows(columns, masked=True)
    clean.valid[1, 7], clean.valid[0, 9] = True, False
    dirty = replace(clean, prediction=clean.prediction.clone(), target=clean.target.float())
    dirty.prediction[1, 7] = torch.nan
    dirty.prediction[0, 9] = dirty.target[0, 9] = torch.nan  # padding
    clean = replace(clean, target=clean.target.float())
    expected, results = harness("plain", 24).run([clean, dirty])
    for now, then in zip(results, expected, strict=True):
        others = torch.arange(len(now)) != 1
        assert torch.equal(now[others], then[others])
    loss, purity, _, gradient = results
    assert loss[1].isnan()
    assert purity[1].isnan()
    assert torch.equal(gradient[1].isnan(), dirty.valid[1])


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("wrong", [2.0, 0.5, -1.0, torch.nan])
def test_a_target_other_than_0_and_1_makes_its_row_nan(harness, maker, bound, wrong):
    case = maker.rows(80, target=torch.float32, bound=bound, rows=3)
    case.target[1, 5] = wrong
    ((loss, purity, _, gradient),) = harness("plain", 24).run([case])
    for result in (loss, purity, gradient):
        assert result[1].isnan().all()
        assert not result[[0, 2]].isnan().any()


def test_extreme_logits(harness, maker):
    cases = [maker.rows(257, bound=bound) for bound in BOUNDS]
    for case, size in zip(cases, (30.0, 1e4), strict=True):
        case.prediction.mul_(size)
        case.prediction[:, ::7] = torch.inf
        case.prediction[:, ::11] = -torch.inf
    check(harness("plain", 3), cases)


def test_empty(harness, maker):
    no_rows, no_columns = maker.rows(80, rows=0), maker.rows(0, rows=3)
    assert [len(t) for t in harness("plain", 3).run([no_rows])[0]] == [0, 0, 0, 0]
    ((loss, purity, sums, gradient),) = harness("plain", 3).run([no_columns])
    assert not loss.any()
    assert not purity.any()
    assert not sums.any()
    assert gradient.shape == (3, 0)


def test_the_order_of_the_threads_changes_nothing(harness, maker):
    for columns in (33, 257, 4099):
        case = maker.rows(columns, masked=True, layouts=("unaligned",) * 3)
        first, *others = harness("plain", 3).run([replace(case, order=order) for order in range(4)])
        for other in others:
            assert all(map(torch.equal, first, other))


def means_expected(case, dtype: torch.dtype) -> list[Tensor]:
    loss, purity = (t.to(dtype).requires_grad_() for t in (case.loss, case.purity))
    counted = torch.ones(len(loss), dtype=torch.bool) if case.counted is None else case.counted
    means = [masked_mean(loss, counted), masked_mean(purity, counted)]
    point = means[1].detach() if case.detach_point else means[1]
    means.append(masked_mean((purity - point).abs(), counted))
    grads = torch.autograd.grad(means, [loss, purity], list(case.grad[:3].to(dtype)))
    return [torch.stack(means).detach(), *grads]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("detach_point", [True, False])
def test_means(harness, maker, means_case, dtype, detach_point):
    cases = []
    for order, rows in enumerate((1, 2, 31, 33, 511, 512, 513, 2000)):
        for counted in (None, maker.bits(rows), torch.zeros(rows, dtype=torch.bool)):
            loss, purity = maker.batch(rows, dtype)
            if counted is not None:
                loss[~counted] = purity[~counted] = torch.nan
            cases.append(means_case(loss, purity, counted, maker.normal(5, dtype=dtype), detach_point, order))
    for case, (means, grad_loss, grad_purity) in zip(cases, harness("plain", 3).run(cases), strict=True):
        assert means[3] == (len(case.loss) if case.counted is None else case.counted.sum())
        results = (means[:3], grad_loss, grad_purity)
        # The reference takes uncounted numbers out of the sums, but 0 * NaN is NaN in the gradient of |purity - gamma_f|.
        clean = replace(case, loss=case.loss.nan_to_num(), purity=case.purity.nan_to_num())
        exact, eager = means_expected(clean, torch.float64), means_expected(clean, dtype)
        for fast, same, truth in zip(results, eager, exact, strict=True):
            rounding = 8 * torch.finfo(dtype).eps * max(1.0, float(truth.abs().max()))
            # One sign of a purity that is gamma_f itself to within a rounding may go either way.
            assert (fast - truth).abs().max() <= 2 * (same - truth).abs().max() + rounding


@pytest.mark.parametrize("flavor", ["address", "thread"])
def test_sanitizers_are_silent(harness, maker, means_case, flavor):
    sizes = (1, 33, 257, 1100) if flavor == "thread" else (1, 2, 33, 80, 257, 1000, 1100, 4099)
    pairs = ((torch.float32, torch.bool), (torch.bfloat16, torch.int64), (torch.float64, torch.float32))
    cases = [case for p, t in pairs for case in matrix(maker, p, (t,), sizes)]
    cases += [maker.rows(80, rows=0), maker.rows(0, rows=3)]
    check(harness(flavor, 3), cases)
    batches = [
        means_case(*maker.batch(rows), counted, torch.ones(1).expand(5), detach_point=True, order=5)
        for rows in (33, 1000)
        for counted in (None, maker.bits(rows))
    ]
    harness(flavor, 3).run(batches)


# name: (text in kernels.cuh, what the mutant has instead, flavor that has to catch it, what it has to say; None: wrong numbers will do)
MUTANTS = {
    "removed barrier": (
        "partial[thread / WARP_SIZE] = sums;\n  __syncthreads();",
        "partial[thread / WARP_SIZE] = sums;",
        "plain",
        None,
    ),
    "removed barrier, seen as a race": (
        "partial[thread / WARP_SIZE] = sums;\n  __syncthreads();",
        "partial[thread / WARP_SIZE] = sums;",
        "thread",
        "data race",
    ),
    "removed barrier between two sums": (
        "  __syncthreads();  // the last sum has been read\n",
        "",
        "thread",
        "data race",
    ),
    "barrier in a branch": (
        "  const int64_t finished_row",
        "  if (row < in.rows) __syncthreads();\n  const int64_t finished_row",
        "plain",
        "has ended",
    ),
    "mask without the upper lanes": (
        "ALL_LANES = 0xffffffff",
        "ALL_LANES = 0x0000ffff",
        "plain",
        "leaves out the caller",
    ),
    "shuffle over half a warp": (
        "distance = WARP_SIZE / 2;",
        "distance = WARP_SIZE / 4;",
        "plain",
        None,
    ),
    "shuffle of the wrong lane": (
        "__shfl_sync(ALL_LANES, scalar, 3)",
        "__shfl_sync(ALL_LANES, scalar, 4)",
        "plain",
        None,
    ),
    "one group too many": (
        "group < groups;",
        "group < groups + wide;",
        "plain",
        None,
    ),
    "one group too many, seen as a read": (
        "group < groups;",
        "group < groups + wide;",
        "address",
        "heap-buffer-overflow",
    ),
    "no tail guard": (
        "single < in.columns - groups * GROUP",
        "single < head + GROUP - 1",
        "plain",
        None,
    ),
    "no tail guard, seen as a read": (
        "single < in.columns - groups * GROUP",
        "single < head + GROUP - 1",
        "address",
        "heap-buffer-overflow",
    ),
    "no head": (
        "head = past ? GROUP - past : 0;",
        "head = past < 0;",
        "plain",
        "misaligned",
    ),
    "alignment of the targets not looked at": (
        "is_aligned<GROUP>(start.target + head) && ",
        "",
        "plain",
        "misaligned",
    ),
    "wrong row stride": (
        "in.target.data + row * in.target.row_stride",
        "in.target.data + row * in.columns",
        "plain",
        None,
    ),
    "no column stride": (
        "row[column * column_stride]",
        "row[column]",
        "plain",
        None,
    ),
    "row guard missing": (
        "  if (row >= in.rows) return;  // by whole warps\n",
        "",
        "address",
        "heap-buffer-overflow",
    ),
    "unwritten purity": (
        "    out.purity[finished_row] = row_purity(total);\n",
        "",
        "plain",
        None,
    ),
    "unwritten tail of the gradient": (
        "      row_gradient[column] = gradient.values[0];\n",
        "",
        "plain",
        None,
    ),
    "shared array too small": (
        "partial, ROW_THREADS / WARP_SIZE)",
        "partial, ROW_THREADS / WARP_SIZE - 1)",
        "plain",
        "next to a shared array",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(harness, rows_case, means_case, tmp_path, name):
    text, mutated, flavor, words = MUTANTS[name]
    sources = tmp_path / "csrc"
    for room in ("simt", "purity_fmi"):
        shutil.copytree(CSRC / room, sources / room)
    kernels = sources / "purity_fmi" / "kernels.cuh"
    original = kernels.read_text()
    assert original.count(text) == 1, "the mutant does not apply: kernels.cuh has changed"
    kernels.write_text(original.replace(text, mutated))
    maker = Maker(rows_case, 0)
    cases = list(matrix(maker, torch.float32, (torch.bool,), (33, 257, 1100)))
    cases += [maker.rows(columns) for columns in (33, 256, 257, 1100)]
    means = means_case(*maker.batch(1000), None, torch.ones(5), detach_point=False, order=1)
    mutant = harness(flavor, 1, sources=sources)
    if words is not None:
        with pytest.raises(RuntimeError, match=re.escape(words)):
            mutant.run([means, *cases])
        return
    with pytest.raises((AssertionError, RuntimeError)):
        check(mutant, cases)
