"""The whole path as three calls: split and build the graphs, train and choose a linking, cluster."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from intraformer_fast import graph, nn
from intraformer_fast.checkpoint import load_model, save_model
from intraformer_fast.data import check_same_length, read_neighbors, split_identities
from intraformer_fast.errors import DataError
from intraformer_fast.inference import predict_probability
from intraformer_fast.selection import Linking, Scored, View, choose_linking
from intraformer_fast.training import TrainingConfig, TrainingResult, ValidationSet, train
from intraformer_fast.training.output import MODEL

# Validation clusters that each epoch is scored on: enough to tell epochs apart to a tenth of a per cent.
MONITORED_CLUSTERS = 2048


@dataclass(frozen=True)
class NeighborGraph:
    """Samples and their neighbours: features [N, d], labels int64 [N], neighbors int64 [N, n], similarity float32 [N, n]."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    neighbors: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """A labelled set, split by identity, with the graphs that training and validation need.

    Attributes:
        fit: the samples of the training identities, neighbours of each other alone, so that no validation picture is seen.
        among: all samples. The validation identities stand in a crowd of the right size, but one the model knows.
        alone: the samples of the validation identities: a crowd it does not know, but a small one.
        held_out: bool[N], the samples of the validation identities in `among`.
    """

    fit: NeighborGraph
    among: NeighborGraph
    alone: NeighborGraph
    held_out: npt.NDArray[np.bool_]


def prepare(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    num_neighbors: int,
    *,
    validation: float = 0.2,
    seed: int = 0,
) -> TrainingData:
    """Hold identities out for validation and build the neighbour graphs.

    Args:
        features: [N, d], L2-normalised.
        labels: int64 [N], identities.
        num_neighbors: n, the sample itself included.
        validation: the fraction of the identities held out. A fifth by default.
        seed: of the draw. 0.

    Raises:
        DataError: the features are not what they should be, or there are too few identities to hold one out.
        ValueError: an argument is out of range.
    """
    held_out = split_identities(labels, validation, seed=seed)

    def build(rows: npt.NDArray[np.bool_] | slice) -> NeighborGraph:
        neighbors, similarity = graph.knn_graph(features[rows], num_neighbors)
        return NeighborGraph(features[rows], labels[rows], neighbors, similarity)

    return TrainingData(build(~held_out), build(slice(None)), build(held_out), held_out)


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
    progress: bool = True,
) -> Fitted:
    """Train a model and choose its linking; `output_dir/model.safetensors` then holds both.

    The linking is scored on both validation graphs of `data`, and the best mean wins: among familiar company it comes out too
    merging, alone too splitting.

    Args:
        data: from `prepare`.
        model_options: arguments of `nn.Intraformer`; `input_dim` follows from the features.
        config: how to train; its seed also draws the model's start.
        output_dir: folder of the model, the checkpoints and the history.
        resume: whether to go on from a checkpoint there.
        progress: whether bars are drawn on stderr.

    Raises:
        As `training.train`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = nn.Intraformer(**{**model_options, "input_dim": data.fit.features.shape[1]})
    rows = np.flatnonzero(data.held_out)
    monitored = np.random.default_rng(config.seed).permutation(rows)[:MONITORED_CLUSTERS]
    known = data.among
    result = train(
        model,
        data.fit.features,
        data.fit.labels,
        data.fit.neighbors,
        config=config,
        validation=ValidationSet(known.features, known.labels, known.neighbors, np.sort(monitored)),
        output_dir=output_dir,
        resume=resume,
        progress=progress,
    )
    views = [
        View(g.neighbors, g.similarity, predict(model, g, config, progress), g.labels, scored)
        for g, scored in ((known, data.held_out), (data.alone, np.ones(len(data.alone.labels), bool)))
    ]
    tried = choose_linking(views)
    path = Path(output_dir) / MODEL
    settings = load_model(path)[1]
    save_model(path, model, {**settings, "linking": tried[0].linking.to_dict()})
    return Fitted(model, tried[0].linking, tried, result)


def predict(
    model: nn.Intraformer, data: NeighborGraph, config: TrainingConfig, progress: bool = True
) -> npt.NDArray[np.float32]:
    """Probabilities [N, n] of a graph, in the precision the model was trained in."""
    return predict_probability(model, data.features, data.neighbors, precision=config.precision, progress=progress)


def load_fitted(
    path: str | os.PathLike[str], *, rule: str | None = None, threshold: float | None = None, device: str = "cpu"
) -> tuple[nn.Intraformer, Linking]:
    """A trained model and its linking; another rule starts from that rule's own defaults.

    Raises:
        FileNotFoundError, DataError: there is no such file, or it is damaged.
    """
    model, settings = load_model(path, device=device)
    linking = Linking(**settings["linking"]) if "linking" in settings else Linking()
    if rule is not None and rule != linking.rule:
        linking = Linking(rule)
    if threshold is not None:
        linking = replace(linking, threshold=threshold)
    return model, linking


def cluster(
    model: nn.Intraformer,
    linking: Linking,
    features: npt.NDArray[np.float32],
    *,
    graph_file: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    progress: bool = True,
) -> npt.NDArray[np.int64]:
    """Labels int64 [N] of the samples of a feature table.

    Args:
        model, linking: from `fit` or `load_fitted`.
        features: [N, d], L2-normalised; may be memory-mapped.
        graph_file: a neighbour graph from `data.write_neighbors`. None builds it, as wide as the model was made for.
        precision: of the model, see `predict_probability`.
        progress: whether a bar is drawn on stderr.

    Raises:
        DataError: the features or the graph are not what they should be, or do not belong together.
    """
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
