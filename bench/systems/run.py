"""All systems on one split, one after the other: what fails is told, and the others go on."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intraformer_fast import metrics, pipeline
from intraformer_fast.errors import DataError
from intraformer_fast.pipeline import NeighborGraph, TrainingData

from .catalog import Entry
from .outcomes import Outcome, scores_of, stored
from .split import Split

NEIGHBORS = 80

VALIDATION = 0.5
"""Share of the known identities that settings are chosen on: a threshold chosen in a small crowd is too loose in a large one."""


def run(
    entries: Mapping[str, Entry], split: Split, seeds: int, folder: Path | None, say: Callable[[str], None]
) -> Iterator[Outcome]:
    """Yield the outcome of each system and seed; those that stand in the folder already are not computed again.

    Raises:
        DataError: a part of the data has fewer samples than a sample has neighbours.
    """
    target = None
    for seed in range(seeds):
        data = None
        for name, entry in entries.items():
            identity = identity_of(entry, split)
            found = stored(folder, name, seed, identity)
            if found is None:
                if target is None:
                    target = _wide_enough(split.target_graph(NEIGHBORS), "to cluster")
                data = data or prepared(split, seed)
                say(f"seed {seed}: {entry.title}")
                found = one(name, entry, split, target, data, seed)
                if folder is not None and not found.failure:
                    found.write(folder)
            say(f"seed {seed}: {entry.title}: {described(found)}")
            yield found


def prepared(split: Split, seed: int) -> TrainingData:
    """The graphs to train and to choose on; each seed cuts the known identities elsewhere."""
    data = pipeline.prepare(split.known.features, split.known.labels, NEIGHBORS, validation=VALIDATION, seed=seed)
    return TrainingData(_wide_enough(data.fit, "to train on"), _wide_enough(data.validation, "to choose on"))


def _wide_enough(graph: NeighborGraph, purpose: str) -> NeighborGraph:
    if len(graph.labels) < NEIGHBORS:
        raise DataError(
            f"there are {len(graph.labels)} samples {purpose}: expected at least {NEIGHBORS}, the neighbours of one; take more"
        )
    return graph


def identity_of(entry: Entry, split: Split) -> dict[str, Any]:
    """What an outcome depends on apart from the seed, as JSON gives it back."""
    return json.loads(
        json.dumps(
            {
                "settings": dataclasses.asdict(entry.system),  # type: ignore[call-overload]
                "data": [split.known.name, len(split.known), len(split.target), float(split.target.features.sum())],
                "neighbors": NEIGHBORS,
                "validation": VALIDATION,
            }
        )
    )


def one(name: str, entry: Entry, split: Split, target: NeighborGraph, data: TrainingData, seed: int) -> Outcome:
    """Fit, cluster and score; an exception becomes the reason of a failure."""
    made = Outcome(name, seed, identity_of(entry, split), threads=torch.get_num_threads())
    # Nothing can be learned from labels in random order but how many there are of each.
    hidden = dataclasses.replace(target, labels=np.random.default_rng(seed).permutation(target.labels))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is among the notes
            since, spent = time.perf_counter(), time.process_time()
            fitted = entry.system.fit(data.fit, data.validation, seed)
            trained = time.perf_counter()
            labels = fitted.cluster(hidden)
            done, spent = time.perf_counter(), time.process_time() - spent
        report = metrics.fairness_report(target.labels, labels, split.groups, group_names=split.target.group_names)
    except Exception as error:  # whatever it is, the other systems are to run
        return dataclasses.replace(made, failure=f"{type(error).__name__}: {error}")
    return dataclasses.replace(
        made,
        scores=scores_of(report),
        clusters=report.overall.num_clusters,
        train_seconds=trained - since,
        cluster_seconds=done - trained,
        cpu_seconds=spent,
        chosen=fitted.chosen,
        notes=dict(fitted.notes),
        figures=dict(fitted.figures),
    )


def described(outcome: Outcome) -> str:
    """In a line."""
    if outcome.failure:
        return f"failed: {outcome.failure}"
    scores = ", ".join(f"{metric} {100 * of['all']:.1f}" for metric, of in outcome.scores.items())
    return f"{scores}; {outcome.train_seconds:.0f} s + {outcome.cluster_seconds:.1f} s"
