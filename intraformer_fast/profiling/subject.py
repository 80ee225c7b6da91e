"""What is profiled: a set, its graph and a model, of files or made up."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from intraformer_fast import nn
from intraformer_fast.data import check_same_length, read_features, read_neighbors, synthetic
from intraformer_fast.inference import computing
from intraformer_fast.pipeline import load_fitted
from intraformer_fast.precision import autocast, evaluating, full_precision
from intraformer_fast.presets import preset
from intraformer_fast.selection import Linking


@dataclass(frozen=True)
class Subject:
    """What is profiled.

    Attributes:
        features: [N, d], floating point; may be memory-mapped.
        model, linking: of a training, or made up.
        trained: whether they are of a training.
        neighbors: int64 [N, n] of a given graph, or None.
        graph_seconds: what reading that graph took.
        names: where features, graph and model come from, in words.
    """

    features: npt.NDArray[np.floating]
    model: nn.Intraformer
    linking: Linking
    trained: bool
    neighbors: npt.NDArray[np.int64] | None
    graph_seconds: float
    names: dict[str, str]


def load_subject(
    features: str | os.PathLike[str] | None = None,
    *,
    graph: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    preset_name: str = "small",
    samples: int | None = None,
    dim: int | None = None,
    neighbors: int | None = None,
    device: str = "cpu",
    backend: str = "auto",
) -> Subject:
    """What is to be profiled, of files, or made up where none is given.

    Args:
        features: a feature file. None makes `samples` samples of width `dim` up (20,000 of 128).
        graph: a neighbour graph of the same samples, as `intraformer-fast knn` writes it. None searches.
        model: of a training. None makes one up: a preset with weights drawn at random, which takes the same time.
        preset_name: of a made-up model.
        dim: of made-up features, or of the rows of a .bin file.
        neighbors: n of a made-up model; by default the graph's, or else the preset's.
        device, backend: of the model.

    Raises:
        ValueError: arguments that exclude each other. DataError, OSError: a file is not what it should be.
    """
    if features is not None and samples is not None:
        raise ValueError("--samples makes features up: leave it out where a feature file is given")
    if features is None and graph is not None:
        raise ValueError("--knn is a graph of the samples of a feature file: give that file too")
    if model is not None and neighbors is not None:
        raise ValueError("--neighbors belongs to a made-up model: a trained one has its own")
    if features is None:
        x = synthetic(20_000 if samples is None else samples, dim=128 if dim is None else dim).features
    else:
        x = read_features(features, dim=dim)
    start, table = time.perf_counter(), None
    if graph is not None:
        table = read_neighbors(graph)[0]
        check_same_length(features=x, neighbors=table)
    graph_seconds = time.perf_counter() - start
    if model is not None:
        found, linking = load_fitted(model, device=device, backend=backend)
        name = f"{os.fspath(model)}, {_in_words(found)}"
    else:
        options = {**preset(preset_name).model, "input_dim": x.shape[1], "backend": backend}
        options["num_neighbors"] = neighbors or (table.shape[1] if table is not None else options["num_neighbors"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found, linking = nn.Intraformer(**options).to(device).eval(), Linking()
        name = f"made up (preset {preset_name}, random weights), {_in_words(found)}"
    names = {
        "features": "made up" if features is None else os.fspath(features),
        "graph": "searched" if graph is None else os.fspath(graph),
        "model": name,
    }
    return Subject(x, found, linking, model is not None, table, graph_seconds, names)


def forward(model: nn.Intraformer, x: Tensor, valid: Tensor | None, precision: str) -> Tensor:
    """Probabilities [B, n] of gathered clusters, 0 at padding."""
    with autocast(precision, x.device):
        q = full_precision(model(x, valid)).sigmoid()
    return q if valid is None else q.masked_fill(~valid, 0.0)


@contextlib.contextmanager
def running(model: nn.Intraformer, precision: str) -> Iterator[None]:
    with evaluating(model), computing(model, precision):
        yield


def _in_words(model: nn.Intraformer) -> str:
    return (
        f"n = {model.num_neighbors}, k = {model.num_subclusters}, {len(model.blocks)} blocks, width {model.embed_dim}, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    )
