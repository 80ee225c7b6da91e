"""The rule of parity: at most twice the error of the eager reference in the same dtype."""

import pytest
import torch

from intraformer_fast.bench.parity import check

EXACT = torch.linspace(1, 2, 9, dtype=torch.float64)


def off_by(error):
    """EXACT in float32 with one element off; the error is far above rounding."""
    found = EXACT.clone()
    found[4] += error
    return found.float()


def verdict(found, eager=None):
    return check({"y": found}, {"y": off_by(1e-3) if eager is None else eager}, {"y": EXACT})


@pytest.mark.parametrize(
    ("error", "passed"), [(0.0, True), (1e-3, True), (-1.99e-3, True), (2.01e-3, False), (1.0, False)]
)
def test_twice_the_error_of_eager_is_allowed(error, passed):
    found = verdict(off_by(error))
    assert found.passed == passed
    assert found.error_ratio == pytest.approx(abs(error) / 1e-3, rel=2e-3, abs=1e-3)
    assert found.relative_l2 == pytest.approx(abs(error) / float(EXACT.norm()), rel=1e-3, abs=1e-6)


def test_a_few_roundings_are_allowed_where_eager_is_exact():
    integers = {"y": torch.arange(9, dtype=torch.float64)}
    eager = {"y": integers["y"].float()}
    ulp = torch.finfo(torch.float32).eps * 8
    assert check({"y": eager["y"] + 3 * ulp}, eager, integers).passed
    assert not check({"y": eager["y"] + 6 * ulp}, eager, integers).passed


def test_a_coarse_candidate_is_held_to_a_distance():
    distance = 0.1 / float(EXACT.norm())
    for allowed, passed in ((distance * 1.01, True), (distance * 0.99, False)):
        result = check({"y": off_by(0.1)}, {"y": off_by(0)}, {"y": EXACT}, allowed)
        assert result.passed == passed
        assert f"{allowed:g} allowed" in result.detail
    assert not check({"y": off_by(float("nan"))}, {"y": off_by(0)}, {"y": EXACT}, 1.0).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_fails(value):
    assert not verdict(off_by(value)).passed


def test_the_worst_tensor_is_named():
    good, bad = off_by(0), off_by(0.1)
    eager = {"y": off_by(1e-3), "z": off_by(1e-3)}
    for found, name in (({"y": good, "z": bad}, "z"), ({"y": bad * torch.nan, "z": bad}, "y")):
        result = check(found, eager, {"y": EXACT, "z": EXACT})
        assert not result.passed
        assert f"error of {name} is" in result.detail


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"y": off_by(0).double()}, r"y is torch.float64 \(9,\) where torch.float32 \(9,\)"),
        ({"y": off_by(0)[:8]}, r"\(8,\) where"),
        ({"z": off_by(0)}, "returned z where y was expected"),
        ({}, "returned nothing"),
    ],
)
def test_another_kind_of_result_fails(found, words):
    result = check(found, {"y": off_by(0)}, {"y": EXACT})
    assert not result.passed
    with pytest.raises(ValueError, match=words):
        raise ValueError(result.detail)


def test_nothing_equals_nothing():
    empty = torch.empty(0)
    assert check({"y": empty}, {"y": empty}, {"y": empty.double()}).passed
