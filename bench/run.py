"""Verify, then time: the rows of some benchmarks on one device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from . import memory, parity, timing
from .registry import EAGER, OURS, Benchmark, Case, Inputs, Step
from .results import Row

PASSED, FAILED, DID_NOT_RUN, NO_PARITY = "passed", "FAILED", "did not run", "none"


class Effort(NamedTuple):
    """What a run takes.

    Attributes:
        rounds: of each case.
        sample: seconds that a candidate is run for in one round, at least.
        all_cases: or the first of each benchmark.
        memory: whether peak memory is measured.
    """

    rounds: int
    sample: float
    all_cases: bool
    memory: bool


# 20 ms hide the clock and a thread's start; a quarter of 25 rounds may be spoiled before the quartiles show it.
FULL = Effort(rounds=25, sample=0.02, all_cases=True, memory=True)
QUICK = Effort(rounds=5, sample=0.005, all_cases=False, memory=False)


class Checked(NamedTuple):
    """A candidate after its first run: the step to time where parity holds, and the words and numbers for its row."""

    step: Step | None
    parity: str
    detail: str
    error_ratio: float | None = None
    relative_l2: float | None = None


def run(
    benchmarks: Sequence[Benchmark], device: torch.device, effort: Effort, seed: int, say: Callable[[str], None]
) -> list[Row]:
    """The rows of all cases, in their order.

    Args:
        benchmarks: all of them must run on `device`.
        device: of the inputs.
        effort: FULL, QUICK, or one's own.
        seed: of the inputs.
        say: is told what comes next.
    """
    found: list[Row] = []
    for benchmark in benchmarks:
        for case in benchmark.cases if effort.all_cases else benchmark.cases[:1]:
            say(f"{benchmark.name}: {case.label}")
            found += _run_case(benchmark, case, device, effort, seed)
    return found


def _run_case(benchmark: Benchmark, case: Case, device: torch.device, effort: Effort, seed: int) -> Iterator[Row]:
    torch.compiler.reset()  # or Dynamo, after eight shapes of one function, would leave the next to eager
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: tensor.to(device) for name, tensor in case.inputs(generator).items()}
    checked = verify(case, inputs)
    steps = {name: found.step for name, found in checked.items() if found.step}
    limits = {name: limit.make(inputs) for name, limit in case.limits.items()}
    times = timing.interleaved(steps | limits, effort.rounds, effort.sample, timing.clock(device))
    extra = memory.measure(benchmark, case, device) if effort.memory else {}
    return rows(benchmark.name, case, checked, times, extra)


def verify(case: Case, inputs: Inputs) -> dict[str, Checked]:
    """Every candidate run once on the inputs, and its outputs and gradients checked.

    One that cannot be had here, and a baseline that breaks, "did not run", and says why.
    """
    reference = case.candidates[EAGER]
    exact = reference({name: t.double() if t.is_floating_point() else t for name, t in inputs.items()})()
    eager = reference(inputs)()
    checked = {}
    for name, make in case.candidates.items():
        try:
            step = make(inputs)
            verdict = parity.check(step(), eager, exact, case.coarse.get(name))
        except Exception as error:
            if name == OURS and not isinstance(error, (NotImplementedError, ImportError)):
                raise
            first_line = str(error).strip().partition("\n")[0]
            checked[name] = Checked(None, DID_NOT_RUN, f"{type(error).__name__}: {first_line}")
            continue
        timed, words = (step, PASSED) if verdict.passed else (None, FAILED)
        checked[name] = Checked(timed, words, verdict.detail, verdict.error_ratio, verdict.relative_l2)
    return checked


def rows(
    benchmark: str,
    case: Case,
    checked: Mapping[str, Checked],
    times: Mapping[str, Sequence[float]],
    extra: Mapping[str, int],
) -> Iterator[Row]:
    """The candidates of a case, ours first, then its limits.

    Args:
        benchmark: its name.
        case: what was run.
        checked: of each candidate.
        times: seconds of one run in each round, of each candidate that passed and of each limit; in a round they are neighbours.
        extra: peak memory of those candidates it is known of, in bytes.
    """
    needed = _needed(case, times)
    for name, found in sorted(checked.items(), key=lambda item: item[0] != OURS):
        row = Row(
            benchmark,
            case.label,
            name,
            "ours" if name == OURS else "baseline",
            *case.work,
            found.parity,
            found.detail,
            found.error_ratio,
            found.relative_l2,
        )
        if name in times:
            row = replace(
                timed(row, times[name]),
                ours_faster=timing.ratio(times[name], times[OURS]) if OURS in times else None,
                of_limit=timing.ratio(needed, times[name]),
                extra_bytes=extra.get(name),
            )
        yield row
    for name, limit in case.limits.items():
        yield timed(Row(benchmark, case.label, name, "limit", *limit.work, NO_PARITY), times[name])


def _needed(case: Case, times: Mapping[str, Sequence[float]]) -> list[float]:
    """Seconds in each round that the least work takes at the limits' rates, the slowest of which counts (a roofline)."""
    return [
        max(
            seconds * needed / done
            for seconds, limit in zip(in_a_round, case.limits.values(), strict=True)
            for needed, done in zip(case.work, limit.work, strict=True)
            if done
        )
        for in_a_round in zip(*(times[name] for name in case.limits), strict=True)
    ]


def timed(row: Row, seconds: Sequence[float]) -> Row:
    """A row with the statistics of its times."""
    stats = timing.summary(seconds)
    return replace(
        row,
        median=stats.median,
        p25=stats.q1,
        p75=stats.q3,
        min=stats.min,
        rounds=stats.rounds,
        gb_per_s=row.least_bytes / stats.median / 1e9,
    )
