"""The whole path as three calls: split and build the graphs, train and choose a linking, cluster."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from intraformer_fast import graph, metrics, nn
from intraformer_fast.checkpoint import load_model, save_model
from intraformer_fast.data import check_same_length, read_neighbors, split_identities, unit_rows
from intraformer_fast.distributed import ALONE, Ranks
from intraformer_fast.errors import DataError
from intraformer_fast.inference import predict_probability
from intraformer_fast.nn.cascade import check_floor
from intraformer_fast.selection import Linking, Scored, choose_linking
from intraformer_fast.streaming import largest_batch, predict_cascade, predict_edges, read_edges
from intraformer_fast.training import TrainingConfig, TrainingResult, ValidationSet, train
from intraformer_fast.training.output import MODEL

# Validation clusters that each epoch is scored on: enough to tell epochs apart to a tenth of a per cent.
MONITORED_CLUSTERS = 2048


@dataclass(frozen=True)
class NeighborGraph:
    """Samples and their neighbours: features [N, d], labels int64 [N], neighbors int64 [N, n], similarity float32 [N, n]."""

    features: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]
    neighbors: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


def neighbor_graph(
    features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], num_neighbors: int
) -> NeighborGraph:
    """The neighbour graph of a labelled set; arguments and errors as `graph.knn_graph`."""
    return NeighborGraph(features, labels, *graph.knn_graph(features, num_neighbors))


@dataclass(frozen=True)
class TrainingData:
    """A labelled set cut in two by identity, each part a neighbour graph of its own.

    The parts do not mix: among pictures it was trained on a model is surer than it will be among new ones, so that a linking
    chosen in such a crowd merges too much elsewhere.

    Attributes:
        fit: the training identities.
        validation: those held out, to choose the epoch and the linking by.
    """

    fit: NeighborGraph
    validation: NeighborGraph


def prepare(
    features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int64],
    num_neighbors: int,
    *,
    validation: float = 0.25,
    seed: int = 0,
) -> TrainingData:
    """Hold identities out for validation and build the neighbour graphs.

    Args:
        features: [N, d], floating point; rows that are not of length 1 are scaled to it.
        labels: int64 [N], identities.
        num_neighbors: n, the sample itself included.
        validation: the fraction of the identities held out. A quarter by default: a linking chosen on fewer is left to chance.
        seed: of the draw. 0.

    Raises:
        DataError: the features are not what they should be, or there are too few identities to hold one out.
        ValueError: an argument is out of range.
    """
    check_same_length(features=features, labels=labels)
    features = unit_rows(features)
    held_out = split_identities(labels, validation, seed=seed)
    parts = (neighbor_graph(features[rows], labels[rows], num_neighbors) for rows in (~held_out, held_out))
    return TrainingData(*parts)


@dataclass(frozen=True)
class Fitted:
    """A trained model with its linking.

    Attributes:
        model: in evaluation mode.
        linking: the chosen one.
        tried: all candidates, best first.
        training: the history, and where the files are.
    """

    model: nn.Intraformer
    linking: Linking
    tried: list[Scored]
    training: TrainingResult


def fit(
    data: TrainingData,
    model_options: Mapping[str, Any],
    config: TrainingConfig,
    output_dir: str | os.PathLike[str],
    *,
    resume: bool = True,
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> Fitted:
    """Train a model and choose its linking; `output_dir/model.safetensors` then holds both.

    Args:
        data: from `prepare`.
        model_options: arguments of `nn.Intraformer`; `input_dim` follows from the features.
        config: how to train; its seed also draws the model's start.
        output_dir: folder of the model, the checkpoints and the history.
        resume: whether to go on from a checkpoint there.
        ranks: the processes that train together, each of which makes this call; see `training.train`.
        progress: whether bars are drawn on stderr.

    Raises:
        As `training.train`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = nn.Intraformer(**{**model_options, "input_dim": data.fit.features.shape[1]})
    known = data.validation
    monitored = np.random.default_rng(config.seed).permutation(len(known.labels))[:MONITORED_CLUSTERS]
    result = train(
        model,
        data.fit.features,
        data.fit.labels,
        data.fit.neighbors,
        config=config,
        validation=ValidationSet(known.features, known.labels, known.neighbors, np.sort(monitored)),
        output_dir=output_dir,
        resume=resume,
        ranks=ranks,
        progress=progress,
    )
    probability = predict(model, known, config, progress and ranks.is_first)
    tried = choose_linking(known.neighbors, known.similarity, probability, known.labels)
    if ranks.is_first:
        path = Path(output_dir) / MODEL
        settings = load_model(path)[1]
        save_model(path, model, {**settings, "linking": tried[0].linking.to_dict()})
    ranks.wait()  # all find the file as it is to stay
    return Fitted(model, tried[0].linking, tried, result)


def predict(
    model: nn.Intraformer, data: NeighborGraph, config: TrainingConfig, progress: bool = True
) -> npt.NDArray[np.float32]:
    """Probabilities [N, n] of a graph, in the precision the model was trained in."""
    return predict_probability(model, data.features, data.neighbors, precision=config.precision, progress=progress)


def load_fitted(
    path: str | os.PathLike[str],
    *,
    rule: str | None = None,
    threshold: float | None = None,
    device: str = "cpu",
    backend: str = "auto",
) -> tuple[nn.Intraformer, Linking]:
    """A trained model and its linking; another rule starts from that rule's own defaults.

    Raises:
        As `checkpoint.load_model`.
    """
    model, settings = load_model(path, device=device, backend=backend)
    linking = Linking(**settings["linking"]) if "linking" in settings else Linking()
    if rule is not None and rule != linking.rule:
        linking = Linking(rule)
    if threshold is not None:
        linking = replace(linking, threshold=threshold)
    return model, linking


def cluster(
    model: nn.Intraformer,
    linking: Linking,
    features: npt.NDArray[np.floating],
    *,
    graph_file: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    progress: bool = True,
) -> npt.NDArray[np.int64]:
    """Labels int64 [N] of the samples of a feature table.

    Args:
        model, linking: from `fit` or `load_fitted`.
        features: [N, d], floating point; may be memory-mapped. Rows that are not of length 1 are scaled to it, in a copy.
        graph_file: a neighbour graph from `data.write_neighbors`. None builds it, as wide as the model was made for.
        precision: of the model, see `predict_probability`.
        progress: whether a bar is drawn on stderr.

    Raises:
        DataError: the features or the graph are not what they should be, or do not belong together.
    """
    features = unit_rows(features)
    if graph_file is None:
        neighbors, similarity = graph.knn_graph(features, model.num_neighbors)
    else:
        neighbors, similarity = read_neighbors(graph_file)
        check_same_length(features=features, neighbors=neighbors)
        if not (neighbors[:, 0] == np.arange(len(neighbors))).all():
            raise DataError(
                f"{graph_file} does not list every sample first among its own neighbours, as this model expects: "
                "build the graph with `intraformer-fast knn`"
            )
    probability = predict_probability(model, features, neighbors, precision=precision, progress=progress)
    return linking.link(neighbors, similarity, probability)


GRAPH, EDGES = "graph", "edges"
"""What the folder of `cluster_on_disk` holds."""

LINKING_BYTES = 64
"""Memory a sample while edges on disk are linked: where its edges are, its component, and the sort that numbers the clusters."""

ORDER_BYTES = 8
"""Memory a sample while edges are predicted: the order of the clusters."""

CASCADES = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
"""Floors that `choose_cascade` tries, from the one that saves most."""


@dataclass(frozen=True)
class Cascade:
    """A floor for `nn.cascade`: F_P with it and without, and the share of the model's operations that it takes."""

    floor: float
    pairwise_f: float
    exact_pairwise_f: float
    flops_share: float


def choose_cascade(
    model: nn.Intraformer,
    linking: Linking,
    known: NeighborGraph,
    *,
    tolerance: float = 0.001,
    precision: str = "auto",
) -> Cascade:
    """The cascade that saves most among those that move F_P by at most `tolerance`, on identities held out of training.

    Args:
        model, linking: from `fit`.
        known: the validation part of `prepare`.
        tolerance: of F_P, either way; 0.001 is a tenth of a point.
        precision: as `predict_probability`.

    Returns:
        The floor 0, which is exact, where none of `CASCADES` keeps to it.
    """

    def score(floor: float) -> tuple[float, float]:
        probability, share = predict_cascade(model, known.features, known.neighbors, floor, precision=precision)
        labels = linking.link(known.neighbors, known.similarity, probability)
        return metrics.pairwise_f(known.labels, labels), share

    exact = score(0.0)[0]
    for floor in CASCADES:
        found, share = score(floor)
        if abs(found - exact) <= tolerance:
            return Cascade(floor, found, exact, share)
    return Cascade(0.0, exact, exact, 1.0)


def cluster_on_disk(
    model: nn.Intraformer,
    linking: Linking,
    features: npt.NDArray[np.floating],
    work: str | os.PathLike[str],
    *,
    index: str = "auto",
    memory: int | None = None,
    cascade: float = 0.0,
    precision: str = "auto",
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> npt.NDArray[np.int64] | None:
    """`cluster` for sets larger than memory: graph and edges go to a folder, shard by shard, and a stopped run goes on there.

    Args:
        model, linking: from `fit` or `load_fitted`.
        features: [N, d], floating point; may be memory-mapped.
        work: folder of this run; `graph` and `edges` in it.
        index: of the neighbour search, see `graph.knn_shards`.
        memory: bytes that a process may take beyond what it has, mapped files, whose pages the system takes back, not counted.
            Building the index and the batch of the model are planned for it, linking takes `LINKING_BYTES` a sample and nothing for an
            edge. It is refused where it does not do. None is no limit.
        cascade: see `nn.cascade`; 0 is exact.
        precision: of the model, see `predict_probability`.
        ranks: the processes that share the work, each of which makes this call.
        progress: whether bars are drawn on stderr.

    Returns:
        Labels int64 [N], the same for any number of ranks; None on all ranks but the first.

    Raises:
        As `graph.knn_shards`, `streaming.predict_edges` and `graph.link_edges`; ValueError, before any work, where the cascade
        is out of range or linking or the model do not fit in `memory`.
    """
    floor = graph.edge_floor(linking.rule, linking.threshold, linking.options)
    if linking.rule == "density":
        raise ValueError(
            "rule 'density' needs every neighbour, not only kept edges: choose another, or leave the folder out"
        )
    batch_size = _checked_batch(model, linking, features, cascade, memory)
    made = graph.knn_shards(
        features, model.num_neighbors, Path(work) / GRAPH, index=index, memory=memory, ranks=ranks, progress=progress
    )
    edges = predict_edges(
        model,
        made,
        Path(work) / EDGES,
        floor=floor,
        cascade=cascade,
        batch_size=batch_size,
        precision=precision,
        ranks=ranks,
        progress=progress,
    )
    return linking.link_edges(read_edges(edges, floor)) if ranks.is_first else None


def _checked_batch(
    model: nn.Intraformer, linking: Linking, features: npt.NDArray[Any], cascade: float, memory: int | None
) -> int:
    """Clusters of a batch, once it is known that the rest can run."""
    check_floor(cascade)
    if memory is None:
        return largest_batch(model, None)
    if linking.rule == "communities":
        raise ValueError(
            "rule 'communities' holds all edges in memory: choose another rule, or give no memory to keep to"
        )
    needed = LINKING_BYTES * len(features)
    if needed > memory:
        raise ValueError(f"memory = {memory} bytes: linking {len(features):,} samples takes {needed}; give more")
    return largest_batch(model, memory - ORDER_BYTES * len(features))
