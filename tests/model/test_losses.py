"""The losses against their equations written out, their schedules, and their edge cases."""

import math

import pytest
import torch

from intraformer_fast import functional as F
from intraformer_fast.nn import IntraformerLoss


def test_purity_and_fmi_of_hand_counted_clusters():
    # TP 2, FP 1, FN 1; then a perfect one; then nothing right.
    q = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    y = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
    loss, purity = F.purity_fmi(q, y, from_logits=False)
    torch.testing.assert_close(loss, torch.tensor([2 / 6, 0.0, 1.0]))
    torch.testing.assert_close(purity, torch.tensor([2 / 3, 1.0, 0.0]))
    exact, _ = F.purity_fmi(q, y, from_logits=False, bound="exact")
    torch.testing.assert_close(exact, torch.tensor([1 - 2 / math.sqrt(3 * 3), 0.0, 1.0]))


def test_dice_bounds_the_exact_loss_from_above():
    q, y = torch.rand(200, 30), torch.rand(200, 30) < 0.4
    dice, exact = (F.purity_fmi(q, y, from_logits=False, bound=b)[0] for b in ("dice", "exact"))
    assert (dice >= exact - 1e-6).all()
    assert (dice > exact + 1e-4).any()


def test_predicting_only_the_centroid_is_not_perfect():
    """Algorithm 1 as printed takes FN from the predictions, and would call this a loss of 0."""
    q = torch.tensor([[1.0, 0, 0, 0]])
    loss, _ = F.purity_fmi(q, torch.tensor([[1, 1, 1, 0]]), from_logits=False)
    torch.testing.assert_close(loss, torch.tensor([0.5]))


@pytest.mark.parametrize("bound", ["dice", "exact"])
def test_denominators_of_zero_have_values_and_no_gradient_is_nan(bound):
    q = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.5, 0.5]], requires_grad=True)
    y = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 1]])
    valid = torch.tensor([[True, True], [True, True], [True, True], [False, False]])
    loss, purity = F.purity_fmi(q, y, from_logits=False, valid=valid, bound=bound)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(purity, torch.zeros(4))
    (loss.sum() + purity.sum()).backward()
    assert q.grad.isfinite().all()
    assert (q.grad[3] == 0).all()


def test_padding_is_left_out_even_when_it_is_nan():
    z, y = torch.randn(3, 6), torch.rand(3, 6) < 0.5
    valid = torch.arange(6) < 4
    poisoned = torch.where(valid, z, torch.nan)
    for found, expected in zip(
        F.purity_fmi(poisoned, y, valid=valid.expand(3, 6)), F.purity_fmi(z[:, :4], y[:, :4]), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_nan_prediction_spoils_its_own_row_only():
    z = torch.zeros(2, 3)
    z[0, 1] = torch.nan
    loss, purity = F.purity_fmi(z, torch.ones(2, 3))
    assert loss.isnan().tolist() == purity.isnan().tolist() == [True, False]


@pytest.mark.parametrize("target_dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_accumulates_in_float32_or_better(dtype, target_dtype):
    z = torch.randn(4, 50).to(dtype)
    y = torch.rand(4, 50) < 0.3
    loss, purity = F.purity_fmi(z, y.to(target_dtype))
    assert loss.dtype == purity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact_loss, exact_purity = F.purity_fmi(z.double(), y)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(purity.double(), exact_purity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("warmup", "t", "expected"),
    [
        ("ramp", 0.0, (1, 0, 0)), ("ramp", 0.5, (0.5, 0.5, 0.25)), ("ramp", 1.0, (0, 1, 1)),
        ("step", 0.3, (1, 0, 0)), ("step", 1 / 3, (0, 1, 0)), ("sum", 1.0, (1, 1, 1)), ("none", 0.0, (0, 1, 0)),
    ],
)  # fmt: skip
def test_schedule(warmup, t, expected):
    weights = IntraformerLoss(bce_warmup=warmup, fairness_warmup=1 / 3).weights(t)
    assert weights == pytest.approx(expected, abs=1e-9)


def test_bce_throughout():
    assert IntraformerLoss(accuracy_loss="bce", fairness_weight=0.5).weights(1.0) == (1, 0, 0.5)


def test_ramp_may_end_early():
    assert IntraformerLoss(warmup_end=0.5).weights(0.5)[:2] == (0, 1)


def test_objective_is_its_equation():
    torch.manual_seed(0)
    z, y = torch.randn(5, 8), torch.rand(5, 8) < 0.5
    q = z.sigmoid()
    tp, p, t = (q * y).sum(1), q.sum(1), y.sum(1)
    fmi, purity = ((p + t - 2 * tp) / (p + t)).mean(), tp / p
    bce = -(y * q.log() + ~y * (1 - q).log()).mean()
    points = {"mean": purity.mean(), "median": purity.median(), 0.25: purity.quantile(0.25)}
    for point, value in points.items():
        terms = IntraformerLoss(fairness_point=point, fairness_warmup=0.0, fairness_weight=0.7).terms(
            z, y, progress=0.4
        )
        fair = (purity - value).abs().mean()
        expected = 0.6 * bce + 0.4 * fmi + 0.7 * 0.4 * fair
        for found, wanted in zip(terms, (expected, fmi, bce, fair, purity.mean()), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("fairness_point", ["mean", "median", 0.9])
def test_fully_padded_rows_count_nowhere(fairness_point):
    torch.manual_seed(0)
    z, y = torch.randn(5, 8), torch.rand(5, 8) < 0.5
    valid = torch.rand(5, 8) < 0.8
    loss = IntraformerLoss(fairness_point=fairness_point)
    expected = loss.terms(z, y, valid)
    padded = [torch.cat([t, torch.full((2, 8), fill, dtype=t.dtype)])
              for t, fill in ((z, math.nan), (y, True), (valid, False))]  # fmt: skip
    for found, wanted in zip(loss.terms(*padded), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("fairness_point", ["mean", "median", 0.5])
@pytest.mark.parametrize("rows", [0, 2])
def test_nothing_to_count_is_zero(rows, fairness_point):
    z = torch.randn(rows, 4, requires_grad=True)
    loss = IntraformerLoss(fairness_point=fairness_point)(z, torch.ones(rows, 4), torch.zeros(rows, 4).bool())
    assert loss == 0
    loss.backward()
    assert (z.grad == 0).all()


def test_threshold_scores_decisions():
    z, y = torch.tensor([[2.0, 2.0, -2.0]]), torch.tensor([[1, 0, 0]])
    terms = IntraformerLoss(threshold=0.5).terms(z, y)
    torch.testing.assert_close(terms.fmi, torch.tensor(1 / 3))
    torch.testing.assert_close(terms.purity, torch.tensor(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accuracy_loss": "dice"}, "expected one of 'fmi', 'bce'"),
        ({"bce_warmup": "cosine"}, "expected one of 'ramp'"),
        ({"bound": "upper"}, "expected one of 'dice', 'exact'"),
        ({"fairness_point": "max"}, r"expected 'mean', 'median' or a number in \(0, 1\)"),
        ({"fairness_point": 1.0}, r"expected 'mean', 'median' or a number in \(0, 1\)"),
        ({"fairness_weight": -1}, "expected a finite number, at least 0"),
        ({"fairness_weight": math.nan}, "expected a finite number, at least 0"),
        ({"fairness_weight": math.inf}, "expected a finite number, at least 0"),
        ({"fairness_warmup": 1.0}, "expected a fraction"),
        ({"warmup_end": 0.0}, "expected a fraction"),
        ({"threshold": 1.0}, "expected None or a probability"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        IntraformerLoss(**arguments)
