"""Verify, then time: what becomes a row, and what a row says of given times."""

import pytest
import torch

from intraformer_fast.bench import run as bench
from intraformer_fast.bench.registry import EAGER, OURS, Benchmark, Case, Limit, Work
from intraformer_fast.bench.run import DID_NOT_RUN, FAILED, PASSED, Checked

CPU = torch.device("cpu")
STEP = lambda: {}  # noqa: E731


def rows(times, *, work=(1000, 0), limits=None, failed=(), extra=()):
    make = dict.fromkeys((EAGER, OURS, "compiled"), lambda inputs: STEP)
    limits = limits or {"add": Limit(lambda inputs: STEP, Work(400))}
    case = Case("a", lambda generator: {}, make, Work(*work), limits)
    checked = {
        name: Checked(None, FAILED, "") if name in failed else Checked(STEP, PASSED, "", 0.5, 1e-7) for name in make
    }
    return {row.candidate: row for row in bench.rows("op", case, checked, times, dict(extra))}


def test_arithmetic_of_ratios_and_rates():
    found = rows(
        {OURS: [1.0, 2.0, 4.0], EAGER: [10.0, 18.0, 60.0], "compiled": [0.5, 1.0, 2.0], "add": [0.2, 0.4, 0.8]},
        extra={OURS: 7},
    )
    assert list(found) == [OURS, EAGER, "compiled", "add"]
    ours, eager, compiled, add = found.values()
    assert (ours.median, ours.min, ours.rounds, ours.ours_faster, ours.extra_bytes) == (2.0, 1.0, 3, 1.0, 7)
    assert (eager.ours_faster, compiled.ours_faster, add.ours_faster) == (10.0, 0.5, None)
    assert ours.gb_per_s == pytest.approx(1000 / 2.0 / 1e9)
    # The limit would move 1000 bytes in 1000 / 400 of its time, which is half of ours in every round.
    assert ours.of_limit == pytest.approx(0.5)
    assert (add.role, add.gb_per_s, add.of_limit) == ("limit", 400 / 0.4 / 1e9, None)


def test_the_slower_of_two_limits_counts():
    limits = {"add": Limit(lambda i: STEP, Work(1000)), "multiply": Limit(lambda i: STEP, Work(0, 500))}
    times = {OURS: [10.0], EAGER: [20.0], "compiled": [20.0], "add": [1.0], "multiply": [2.0]}
    assert rows(times, work=(1000, 100), limits=limits)[OURS].of_limit == pytest.approx(0.1)
    assert rows(times, work=(1000, 1000), limits=limits)[OURS].of_limit == pytest.approx(0.4)


def test_what_fails_parity_has_no_speed_and_no_ratio():
    found = rows({EAGER: [2.0], "compiled": [1.0], "add": [1.0]}, failed={OURS}, extra={OURS: 7})
    assert found[OURS].parity == FAILED
    assert {getattr(found[OURS], name) for name in ("median", "min", "gb_per_s", "of_limit", "extra_bytes")} == {None}
    assert found[EAGER].median == 2.0
    assert found[EAGER].ours_faster is None


def test_only_what_passes_is_timed(tiny, own_registry, monkeypatch):
    timed = []

    def at_once(steps, *_):
        timed.append(list(steps))
        return {name: [1.0] for name in steps}

    monkeypatch.setattr(bench.timing, "interleaved", at_once)
    found = bench.run([own_registry["tiny"], own_registry["wrong"]], CPU, bench.QUICK, 0, say=lambda line: None)
    assert timed == [[EAGER, OURS, "torch.add"], [EAGER, "torch.add"]]
    parities = {(row.benchmark, row.candidate): row.parity for row in found}
    assert parities["tiny", OURS] == parities["tiny", EAGER] == PASSED
    assert parities["tiny", "absent"] == DID_NOT_RUN
    assert parities["wrong", OURS] == FAILED
    (absent,) = (row for row in found if row.candidate == "absent")
    assert absent.detail == "NotImplementedError: no such compiler here"


def test_a_broken_candidate_of_ours_is_a_bug_and_a_refusal_is_not(tiny):
    def breaks(x):
        raise ValueError("a bug")

    def refuses(x):
        raise NotImplementedError("built without it")

    inputs = {"x": torch.randn(2, 3)}
    with pytest.raises(ValueError, match="a bug"):
        bench.verify(tiny.case(breaks), inputs)
    found = bench.verify(tiny.case(refuses), inputs)
    assert (found[OURS].parity, found[EAGER].parity) == (DID_NOT_RUN, PASSED)


def test_the_inputs_follow_the_seed(tiny):
    def seen(seed):
        kept = []
        case = tiny.case(lambda x: kept.append(x) or x.softmax(-1))
        benchmark = Benchmark("seen", "", ("cpu",), lambda: [case])
        bench.run([benchmark], CPU, bench.QUICK._replace(rounds=1, sample=0), seed, say=lambda line: None)
        return kept[0]

    assert torch.equal(seen(5), seen(5))
    assert not torch.equal(seen(5), seen(6))
