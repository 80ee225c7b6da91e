"""The order, the arithmetic and the statistics of the timing, on a clock of the test's own."""

import gc

import pytest
import torch

from intraformer_fast.bench import timing


class FakeClock:
    """A run of the step named `name` takes `cost[name]` seconds, growing by `drift` with every sample taken."""

    def __init__(self, cost, drift=0.0):
        self.cost, self.drift = cost, drift
        self.samples, self.runs = [], []
        self.steps = {name: lambda name=name: self.runs.append(name) for name in cost}

    def __call__(self, step, times):
        self.runs.clear()
        for _ in range(times):
            step()
        (name,) = set(self.runs)
        self.samples.append((name, times, gc.isenabled()))
        return times * self.cost[name] * (1 + self.drift * len(self.samples))


def test_every_round_times_every_step_once():
    clock = FakeClock({"a": 1e-3, "b": 3e-3, "c": 50e-3})
    taken = timing.interleaved(clock.steps, 12, 0.02, clock)
    rounds = clock.samples[-36:]
    orders = [tuple(name for name, _, _ in rounds[i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 2
    assert {(name, times) for name, times, _ in rounds} == {("a", 32), ("b", 8), ("c", 1)}
    assert not any(collecting for _, _, collecting in rounds)
    assert gc.isenabled()
    assert {name: pytest.approx(seconds) for name, seconds in taken.items()} == {
        n: [c] * 12 for n, c in clock.cost.items()
    }


def test_a_slow_spell_weighs_on_both_sides_of_a_ratio():
    clock = FakeClock({"fast": 1e-3, "slow": 5e-3}, drift=0.02)
    taken = timing.interleaved(clock.steps, 20, 0.01, clock)
    assert max(taken["fast"]) > 1.3 * min(taken["fast"])
    assert timing.ratio(taken["slow"], taken["fast"]) == pytest.approx(5, rel=0.05)
    assert timing.ratio([2, 30, 8], [1, 3, 2]) == 4


def test_summary():
    stats = timing.summary([4.0, 1.0, 3.0, 2.0])
    assert (stats.min, stats.q1, stats.median, stats.q3, stats.rounds) == (1.0, 1.5, 2.5, 3.5, 4)


def test_the_clock_of_a_device():
    seconds = timing.clock(torch.device("cpu"))(lambda: sum(range(1000)), 50)
    assert 0 < seconds < 60
    assert timing.clock(torch.device("cuda")) is not timing.clock(torch.device("cpu"))


@pytest.mark.gpu
def test_cuda_events_see_the_work_and_not_only_its_launch():
    clock, x = timing.clock(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    one, many = (min(clock(lambda: x @ x, times) for _ in range(3)) for times in (1, 20))
    assert many > 5 * one > 0
