"""The profile of one set: its stages, the model by op, and what to try."""

import os
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.profiler import record_function

from intraformer_fast import cost, nn
from intraformer_fast.clusters import Clusters
from intraformer_fast.data import unit_rows
from intraformer_fast.graph import knn_graph
from intraformer_fast.graph.engines import Plan, import_faiss
from intraformer_fast.graph.knn import fetched, plan_with
from intraformer_fast.inference import finite_probability, inference_precision
from intraformer_fast.profiling.growth import SearchCost
from intraformer_fast.profiling.measure import Clock, by_op, tracing
from intraformer_fast.profiling.report import TRACE, Profile, Stage, counted
from intraformer_fast.profiling.subject import Subject, forward, running
from intraformer_fast.profiling.suggestions import BATCH, Batches, suggest, usable_cores

SUBSET = 10_000
"""Samples that are searched and linked at most; larger sets are estimated from so many."""

WARM_UP = 32
"""Clusters that go before what is timed."""

FEW_SAMPLES, TRACED_BATCHES = 1000, 2
"""Samples of a search that is only to be warm or to be seen in a trace, and batches there."""


def profile(
    subject: Subject,
    *,
    precision: str = "auto",
    seconds: float = 20.0,
    output: str | os.PathLike[str] | None = None,
    trace: bool = False,
) -> Profile:
    """Measure the stages of a clustering on a part of the set, estimate the whole, and say what to try.

    Args:
        subject: from `load_subject`.
        precision: of the model, as `inference.predict_probability`.
        seconds: about what measuring the model may take, and the suggestions again as much; not below one batch.
        output: folder of the report, and of the trace.
        trace: whether to write `trace.json` there, for chrome://tracing or ui.perfetto.dev.

    Raises:
        ValueError: an option is out of range. DataError: the features are not what they should be. OSError: `output` cannot be written.
    """
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds = {seconds}: expected a positive number")
    if trace and output is None:
        raise ValueError("--trace writes a file: give a folder with --output")
    model, total = subject.model, len(subject.features)
    device = next(model.parameters()).device
    precision = inference_precision(model, device, precision)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    rows = np.sort(np.random.default_rng(0).permutation(total)[:SUBSET])
    part = len(rows)

    reading, searching = Clock(device), Clock(device)
    with reading.lap():
        features = np.ascontiguousarray(unit_rows(subject.features[rows]))
    n = model.num_neighbors if subject.neighbors is None else subject.neighbors.shape[1]
    plan = plan_with(import_faiss(), total, fetched(min(n, total), total), "auto", "auto")
    knn_graph(features[:FEW_SAMPLES], n, index="exact")
    with searching.lap():
        neighbors, similarity = knn_graph(features, n, index="exact")
    halving = Clock(device)
    with halving.lap():
        knn_graph(features[: (part + 1) // 2], n, index="exact")
    cost_of_search = SearchCost.of_exact(part, searching.seconds, halving.seconds)
    # A given graph is asked of the whole table, as it will be.
    if subject.neighbors is None:
        clusters = Clusters(model, features, neighbors)
    else:
        clusters = Clusters(model, unit_rows(subject.features), subject.neighbors[rows])

    gathering, predicting, linking = Clock(device), Clock(device), Clock(device)
    probability = _predict(model, clusters, precision, seconds, gathering, predicting)
    measured = len(probability)
    to_link = probability_to_link(probability, part, subject.trained)
    with linking.lap():
        subject.linking.link(neighbors, similarity, to_link)

    def linear(name: str, clock: Clock, samples: int, rule: str = "") -> Stage:
        if samples < total and not rule:
            rule = f"as many seconds a sample as for the {samples:,} measured"
        return Stage(name, clock.seconds, samples, clock.seconds * total / samples, rule, clock.peak_bytes)

    stages = (
        linear("read, normalize", reading, part),
        _search_stage(subject, plan, searching, cost_of_search, part),
        linear("gather", gathering, measured),
        linear("model", predicting, measured),
        linear("linking", linking, part, _linking_rule(subject, measured, part, total)),
    )
    batches = Batches(subject.model, clusters, precision, predicting.seconds / measured)
    with running(model, precision):
        ops = by_op(batches.run_some, device)
        if trace and output is not None:
            with tracing(Path(output) / TRACE, device):
                _traced(subject, features, batches, neighbors, similarity, to_link)
    result = Profile(
        {
            "samples": total,
            "dim": subject.features.shape[1],
            "neighbors": n,
            **subject.names,
            "precision": precision,
            "device": device.type,
            "threads": torch.get_num_threads(),
            "load": load,
        },
        {"samples": part, "clusters": measured},
        stages,
        ops,
        _model_facts(subject, n, precision, predicting, measured),
        suggest(subject, batches, plan, cost_of_search, features, neighbors, stages, seconds),
    )
    if output is not None:
        result.write(output)
    return result


def _predict(
    model: nn.Intraformer, clusters: Clusters, precision: str, seconds: float, gathering: Clock, predicting: Clock
) -> npt.NDArray[np.float32]:
    """Probabilities of as many clusters as fit into `seconds`, a batch at least, after some that are not timed."""
    found = []
    with running(model, precision):
        clusters.logits(model, slice(0, WARM_UP), precision)
        for start in range(0, len(clusters.neighbors), BATCH):
            rows = slice(start, min(start + BATCH, len(clusters.neighbors)))
            with gathering.lap():
                _, x, valid = clusters.gather(rows)
            with predicting.lap():
                answer = forward(model, x, valid, precision)
            found.append(finite_probability(answer, range(rows.start, rows.stop)))
            if gathering.seconds + predicting.seconds > seconds:
                break
    return np.concatenate(found)


def probability_to_link(probability: npt.NDArray[np.float32], samples: int, trained: bool) -> npt.NDArray[np.float32]:
    """Probabilities [samples, n] to link by: those measured, again and again; of a made-up model the nearer half of everyone."""
    if trained:
        return probability[np.arange(samples) % len(probability)]
    n = probability.shape[1]
    return np.broadcast_to((np.arange(n) < (n + 1) // 2).astype(np.float32), (samples, n)).copy()


def _linking_rule(subject: Subject, measured: int, part: int, total: int) -> str:
    reasons = [f"as many seconds a sample as for the {part:,} measured"] if part < total else []
    if not subject.trained:
        reasons.append("a made-up model's answers say nothing: the nearer half of the neighbours is kept instead")
    elif measured < part:
        reasons.append(f"the answers for {measured:,} clusters, repeated")
    return "; ".join(reasons)


def _search_stage(subject: Subject, plan: Plan, searching: Clock, cost_of_search: SearchCost, part: int) -> Stage:
    total = len(subject.features)
    if subject.neighbors is not None:
        return Stage(
            "k-NN graph", subject.graph_seconds, total, subject.graph_seconds, "read from its file, in full", None
        )
    estimate, rule = searching.seconds, ""
    if part < total:
        estimate = cost_of_search.seconds(plan.index, total)
        rule = f"{plan.index} search: seconds a sample and a comparison from exact ones among {part:,} and half as many, measured"
    return Stage("k-NN graph", searching.seconds, part, estimate, rule, searching.peak_bytes)


def _model_facts(subject: Subject, n: int, precision: str, predicting: Clock, measured: int) -> dict[str, Any]:
    model = subject.model
    work = cost.intraformer(
        1,
        n,
        model.embed_dim,
        num_subclusters=model.num_subclusters,
        num_layers=len(model.blocks),
        ffn_dim=int(model.config["ffn_dim"]),  # type: ignore[call-overload]
    )
    sizes = [min(BATCH, measured - start) for start in range(0, measured, BATCH)]
    rates = [size / lap for size, lap in zip(sizes, predicting.laps, strict=True)]
    low, middle, high = quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else (rates[0],) * 3
    facts = {"samples_per_second": [low, middle, high], "flops": work.flops * measured / predicting.seconds}
    if next(model.parameters()).device.type == "cpu":
        device, threads = cost.this_cpu(), torch.get_num_threads()
        share = min(1.0, threads / usable_cores())
        peak = share * device.peaks[precision] if precision in device.peaks else None
        return {**facts, "peak": peak, "device": f"{counted(threads, 'thread')} of {device.name}"}
    return {**facts, "peak": None, "device": torch.cuda.get_device_name()}


def _traced(
    subject: Subject,
    features: npt.NDArray[np.floating],
    batches: Batches,
    neighbors: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    probability: npt.NDArray[np.float32],
) -> None:
    """A short run of all stages, each named in the trace."""
    with record_function("k-NN graph"):
        knn_graph(features[:FEW_SAMPLES], neighbors.shape[1])
    for i in range(TRACED_BATCHES):
        with record_function("gather"):
            x, valid = batches.gather(i)
        with record_function("model"):
            forward(subject.model, x, valid, batches.precision)
    with record_function("linking"):
        subject.linking.link(neighbors, similarity, probability)
