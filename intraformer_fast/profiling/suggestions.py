"""What to try, one suggestion a setting, each with what was measured or the rule behind it."""

import os
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from intraformer_fast import nn
from intraformer_fast.clusters import Clusters
from intraformer_fast.explanation import explain
from intraformer_fast.graph import knn_graph
from intraformer_fast.graph.engines import EXACT_LIMIT, Plan
from intraformer_fast.nn.cascade import cascade
from intraformer_fast.profiling.growth import SearchCost, comparisons
from intraformer_fast.profiling.measure import Clock
from intraformer_fast.profiling.report import Stage, Suggestion, duration
from intraformer_fast.profiling.subject import Subject, forward, running

BATCH = 256
"""Clusters a batch: what `predict_probability` takes by default."""

BATCHES = (64, 256, 1024)
PRECISIONS = ("fp32", "bf16", "int8")
FLOORS = (0.3, 0.1, 0.05)

ROUNDS = 3
STEP_SECONDS = 0.3
"""A step of a comparison takes about this long: so many clusters, up to a batch."""

WORTH = 1.15
"""What a change has to gain to be suggested."""

SMALL_SHARE = 0.1
"""A stage of less than this share of the whole is left alone."""


class Batches:
    """Batches of clusters of a size that a comparison can afford.

    Args:
        model: in any mode.
        clusters: what they are taken from, again and again.
        precision: of the model.
        seconds_a_sample: what a cluster took.
    """

    def __init__(self, model: nn.Intraformer, clusters: Clusters, precision: str, seconds_a_sample: float) -> None:
        self.model, self.clusters, self.precision = model, clusters, precision
        self.seconds_a_sample = seconds_a_sample
        self.size = min(BATCH, len(clusters.neighbors), max(8, int(STEP_SECONDS / seconds_a_sample)))

    def gather(self, i: int, size: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Features [size, n, d] and mask of a batch; the numbers begin anew where the clusters end."""
        size = size or self.size
        rows = torch.arange(i * size, (i + 1) * size) % len(self.clusters.neighbors)
        _, x, valid = self.clusters.gather(rows)
        return x, valid

    def run_some(self) -> None:
        """Two batches through the model, inside of `running`."""
        for i in range(2):
            forward(self.model, *self.gather(i), self.precision)

    def rates(self, steps: Mapping[str, tuple[int, Callable[[], Any]]]) -> dict[str, float]:
        """Samples a second of steps of so many clusters, taken in turns after one that is not timed; medians."""
        clocks = {name: Clock(self.clusters.device) for name in steps}
        for _, step in steps.values():
            step()
        for _ in range(ROUNDS):
            for name, (_, step) in steps.items():
                with clocks[name].lap():
                    step()
        return {name: size / median(clocks[name].laps) for name, (size, _) in steps.items()}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def suggest(
    subject: Subject,
    batches: Batches,
    plan: Plan,
    cost: SearchCost,
    features: npt.NDArray[np.floating],
    neighbors: npt.NDArray[np.int64],
    stages: Sequence[Stage],
    seconds: float,
) -> tuple[Suggestion, ...]:
    """One suggestion a setting; `features` and `neighbors` are those of the measured part, `seconds` what a comparison may take."""
    share = {stage.name: stage.estimate / sum(s.estimate for s in stages) for stage in stages}
    return (
        _batch_size(batches, seconds),
        _precision(subject, batches),
        _threads(batches),
        _backend(batches),
        _index(subject, plan, cost, features, neighbors, share["k-NN graph"]),
        _cascade(subject, batches),
    )


def _batch_size(batches: Batches, seconds: float) -> Suggestion:
    affordable = [size for size in BATCHES if (ROUNDS + 1) * size * batches.seconds_a_sample < seconds / 2]
    if BATCH not in affordable:
        return Suggestion(
            "batch size", f"not compared: {BATCH} clusters take {duration(BATCH * batches.seconds_a_sample)}", False, {}
        )

    def step(size: int) -> Callable[[], Any]:
        x, valid = batches.gather(0, size)
        return lambda: forward(batches.model, x, valid, batches.precision)

    with running(batches.model, batches.precision):
        rates = batches.rates({str(size): (size, step(size)) for size in affordable})
    best = max(rates, key=lambda name: rates[name])
    gain = rates[best] / rates[str(BATCH)]
    shown = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
    text = (
        f"{best} is {gain:.2f} times as fast as {BATCH}: predict_probability(batch_size={best})"
        if gain >= WORTH
        else f"keep {BATCH}"
    )
    return Suggestion("batch size", f"{text} (samples a second by size: {shown})", gain >= WORTH, rates)


def _precision(subject: Subject, batches: Batches) -> Suggestion:
    x, valid = batches.gather(0)
    steps, answers, refused = {}, {}, []
    for precision in PRECISIONS:

        def step(precision: str = precision) -> Tensor:
            with running(batches.model, precision):
                return forward(batches.model, x, valid, precision)

        try:
            answers[precision] = step()
        except NotImplementedError as error:
            refused.append(f"{precision}: {error}")
        else:
            steps[precision] = (batches.size, step)
    rates = batches.rates(steps)
    best = max(rates, key=lambda name: rates[name])
    gain = rates[best] / rates[batches.precision]
    shown = ", ".join(f"{name}: {rate:,.0f}" for name, rate in rates.items())
    if gain < WORTH or best == batches.precision:
        return Suggestion("precision", f"keep {batches.precision} (samples a second: {shown})", False, rates)
    measured = dict(rates)
    judged = "what it rounds was not judged, by a made-up model"
    if subject.trained:
        threshold = subject.linking.threshold
        moved = ((answers[best] > threshold) != (answers[batches.precision] > threshold)).float().mean().item()
        measured["share_moved"] = moved
        judged = f"{100 * moved:.2f} % of the neighbours change sides of the threshold {threshold}"
    text = f"{best} is {gain:.2f} times as fast as {batches.precision} (samples a second: {shown}); {judged}"
    return Suggestion("precision", text, True, measured)


def _threads(batches: Batches) -> Suggestion:
    if batches.clusters.device.type != "cpu":
        return Suggestion("threads", "the model runs on a GPU", False, {})
    now = torch.get_num_threads()
    cores = usable_cores()
    x, valid = batches.gather(0)

    def step(threads: int) -> Callable[[], Any]:
        def run() -> None:
            torch.set_num_threads(threads)
            forward(batches.model, x, valid, batches.precision)

        return run

    try:
        with running(batches.model, batches.precision):
            rates = batches.rates({str(t): (batches.size, step(t)) for t in sorted({1, now, cores})})
    finally:
        torch.set_num_threads(now)
    shown = ", ".join(f"{threads}: {rate:,.0f}" for threads, rate in rates.items())
    best = max(rates, key=lambda name: rates[name])
    gain = rates[best] / rates[str(now)]
    if gain >= WORTH:
        text = f"{best} are {gain:.2f} times as fast as the {now} in use: OMP_NUM_THREADS={best}"
    elif now > 1 and rates[str(now)] < WORTH * rates["1"]:
        text = f"{now} threads gain little over one: run a process a core, `torchrun ... cluster --work`"
    else:
        return Suggestion("threads", f"keep {now} (samples a second by threads: {shown})", False, rates)
    return Suggestion("threads", f"{text} (samples a second by threads: {shown})", True, rates)


def _backend(batches: Batches) -> Suggestion:
    x, valid = batches.gather(0, min(8, batches.size))
    with running(batches.model, batches.precision):
        found = explain(forward, batches.model, x, valid, batches.precision)
    device = batches.clusters.device.type
    own = {"cpu": "cpu", "cuda": "triton"}.get(device)
    left = {
        choice.op: why
        for choice, _ in found.choices
        if choice.served == "reference"
        for name, why in choice.others
        if name == own
    }
    if left:
        text = "; ".join(f"{op} runs in plain PyTorch, since {why}" for op, why in left.items())
        return Suggestion("backend", text, True, {})
    served = ", ".join(sorted({f"{choice.op} by {choice.served}" for choice, _ in found.choices}))
    return Suggestion("backend", f"nothing to gain: {served}", False, {})


def _index(
    subject: Subject,
    plan: Plan,
    cost: SearchCost,
    features: npt.NDArray[np.floating],
    neighbors: npt.NDArray[np.int64],
    share: float,
) -> Suggestion:
    if subject.neighbors is not None:
        return Suggestion("index", "the graph was given", False, {})
    if share < SMALL_SHARE:
        return Suggestion("index", f"keep {plan.index}: the search is {100 * share:.0f} % of the whole", False, {})
    if "not installed" in plan.reason:
        return Suggestion("index", f"{plan.reason}; the search is {100 * share:.0f} % of the whole", True, {})
    device = torch.device("cpu")
    exact, ivf = Clock(device), Clock(device)
    n = neighbors.shape[1]
    with exact.lap():
        knn_graph(features, n, index="exact")
    with ivf.lap():
        found, _ = knn_graph(features, n, index="ivf")
    hits = sum(int(np.isin(a[a >= 0], b).sum()) for a, b in zip(found, neighbors, strict=True))
    recall = hits / int((neighbors >= 0).sum())
    part, total = len(features), len(subject.features)
    numbers = {"exact_seconds": exact.seconds, "ivf_seconds": ivf.seconds, "recall": recall}
    measured = (
        f"on the {part:,} measured IVF finds {100 * recall:.1f} % in {duration(ivf.seconds)}, exact search all in "
        f"{duration(exact.seconds)}"
    )
    if plan.index == "ivf":
        return Suggestion("index", f"keep ivf, auto's choice ({plan.reason}); {measured}", False, numbers)
    # What IVF takes beside its comparisons is what the exact search takes, and so much of each comparison as was measured.
    compared = part * comparisons("ivf", part)
    of_ivf = SearchCost(cost.per_sample, max(0.0, ivf.seconds - part * cost.per_sample) / compared)
    whole = {"exact": cost.seconds("exact", total), "ivf": of_ivf.seconds("ivf", total)}
    estimated = f"for all {total:,} that is {duration(whole['ivf'])} against {duration(whole['exact'])}, an estimate"
    text = f"the exact search is {100 * share:.0f} % of the whole; {measured}; {estimated}"
    if whole["exact"] >= WORTH * whole["ivf"]:
        return Suggestion("index", f"try ivf where neighbours may be missed: {text}", True, numbers)
    return Suggestion(
        "index", f"keep exact (auto takes ivf above {EXACT_LIMIT['cpu']:,} samples): {text}", False, numbers
    )


def _cascade(subject: Subject, batches: Batches) -> Suggestion:
    if batches.model.num_subclusters == 1:
        return Suggestion("cascade", "the model has one sub-cluster: there is none to leave out", False, {})
    if not subject.trained:
        return Suggestion("cascade", "what a made-up model finds says nothing of what may be left out", False, {})
    if batches.precision == "int8":
        return Suggestion("cascade", "a cascade has no int8", False, {})
    x, valid = batches.gather(0)

    def step(floor: float) -> Tensor:
        with running(batches.model, batches.precision):
            if not floor:
                return forward(batches.model, x, valid, batches.precision)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=batches.precision == "bf16"):
                return cascade(batches.model, x, valid, floor).probability

    rates = batches.rates({str(f): (batches.size, lambda f=f: step(f)) for f in (0.0, *FLOORS)})  # type: ignore[misc]
    threshold = subject.linking.threshold
    kept = step(0.0) > threshold
    lost = {f: (kept & (step(f) <= threshold)).sum().item() / max(1, kept.sum().item()) for f in FLOORS}
    shown = ", ".join(
        f"{f}: {rates[str(f)] / rates['0.0']:.2f} times as fast, {100 * lost[f]:.2f} % of kept edges lost"
        for f in FLOORS
    )
    best = max(FLOORS, key=lambda f: rates[str(f)])
    change = rates[str(best)] >= WORTH * rates["0.0"]
    text = "pipeline.choose_cascade finds the floor that costs no accuracy" if change else "keep 0"
    return Suggestion("cascade", f"{text} ({shown})", change, rates | {f"lost_{f}": share for f, share in lost.items()})
