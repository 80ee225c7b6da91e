"""Predictions for sets of any size: from a graph on disk to the edges worth keeping, shard by shard."""

import hashlib
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor
from tqdm import tqdm

from intraformer_fast import nn
from intraformer_fast.clusters import Array, Clusters
from intraformer_fast.distributed import ALONE, Ranks
from intraformer_fast.errors import DataError
from intraformer_fast.files import read_json
from intraformer_fast.graph import KnnShards, SparseEdges
from intraformer_fast.inference import computing, finite_probability, inference_precision
from intraformer_fast.nn.cascade import cascade as cascaded
from intraformer_fast.nn.cascade import check_floor, stream_flops
from intraformer_fast.precision import autocast, evaluating
from intraformer_fast.shards import MANIFEST, Shards, open_shards, save_npy, scratch_array

ORDER = "order.npy"
PIVOTS = 1024
"""Samples that the others are gathered around, at most; fewer than the square root of their number."""

BATCH = 256
"""Clusters that the model sees at once, at most."""

FLOATS = 16
"""Numbers of the model's width that a token takes at once, the eager backend's hidden layers included; scores come beside them."""

PLACED_TOGETHER = 2**20
"""Edges that are brought to their place at once."""

ARRAYS = ("samples", "degree", "targets", "probability", "streams")


def largest_batch(model: nn.Intraformer, memory: int | None) -> int:
    """The clusters of a batch that fit in `memory` bytes, at most `BATCH`, by what the eager backend takes, the largest of all.

    Raises:
        ValueError: not even one fits.
    """
    if memory is None:
        return BATCH
    n = model.num_neighbors
    scores = 2 * model.num_heads * -(-n // model.num_subclusters)
    one = 4 * n * (FLOATS * model.embed_dim + scores + model.input_dim)
    if one > memory:
        raise ValueError(f"memory = {memory} bytes is left for the model, and one cluster of it takes {one}: give more")
    return min(BATCH, memory // one)


def predict_edges(
    model: nn.Intraformer,
    graph: KnnShards,
    folder: str | os.PathLike[str],
    *,
    floor: float = 0.5,
    cascade: float = 0.0,
    batch_size: int = BATCH,
    precision: str = "auto",
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> Shards:
    """The edges i -> j of probability > floor, written to a folder in shards; the same call goes on where one was stopped.

    Clusters are taken in an order that keeps similar ones together, so that a batch reads few rows of the features many times.
    Memory is that of a batch and of a shard of neighbours: the features and the graph are mapped, and [N, n] probabilities are
    never held. The answer for a cluster is that of `inference.predict_probability`, and does not depend on the number of ranks.

    Args:
        model: used in evaluation mode, and left in the mode it was in.
        graph: from `graph.knn_shards`, as wide as the model can take.
        folder: of these edges alone.
        floor: in [0, 1]; 0 keeps every neighbour.
        cascade: see `nn.cascade`; 0, the default, is exact.
        batch_size, precision: as `inference.predict_probability`.
        ranks: the processes that share the work; every one makes this call and gets the same.
        progress: whether the first draws a bar with the time left on stderr.

    Returns:
        Shards of clusters in that order: `samples` int32 [b], which they are; `degree` int32 [b], edges of each; `targets` int32
        and `probability` float32, those edges, a cluster's targets rising; `streams` int8 [b], streams that were computed.

    Raises:
        ValueError: an option is out of range, the graph is too wide, or the folder belongs to another run.
        DataError: a shard of the graph is missing or was cut short, or an answer of the model is not finite.
        OSError: the disk is full.
    """
    check_floor(cascade)
    if not 0 <= floor <= 1 or batch_size < 1:
        raise ValueError(
            f"floor = {floor}, batch_size = {batch_size}: expected floor in [0, 1] and batch_size of at least 1"
        )
    total = graph.shards.rows
    clusters = Clusters(model, graph.features, graph.shards.read(0)[0])
    precision = _precision(model, clusters, cascade, precision)
    identity = {
        "what": "edges",
        "graph": read_json(graph.shards.folder / MANIFEST),
        "model": _fingerprint(model),
        "floor": floor,
        "cascade": cascade,
        "batch_size": batch_size,
        "precision": precision,
    }
    if ranks.is_first:
        path = open_shards(folder, total, graph.shards.shard_rows, ARRAYS, identity).folder / ORDER
        if not path.exists():
            save_npy(path, local_order(graph.features))
    ranks.wait()
    shards = open_shards(folder, total, graph.shards.shard_rows, ARRAYS, identity)
    missing = shards.missing()
    ranks.wait()  # nobody writes before everybody has looked
    mine = missing[ranks.rank :: ranks.size]
    if mine:
        order = np.load(shards.folder / ORDER, mmap_mode="r", allow_pickle=False)
        tables = [graph.shards.read(i)[0] for i in range(len(graph.shards))]
        size = sum(shards.rows_of(i).stop - shards.rows_of(i).start for i in mine)
        silent = not (progress and ranks.is_first)
        bar = tqdm(total=size, desc="predicting", unit="cluster", disable=silent)
        with bar, evaluating(model), computing(model, precision):
            for shard in mine:
                samples = np.array(order[shards.rows_of(shard)])
                asked = clusters.with_neighbors(_rows(tables, samples, graph.shards.shard_rows))
                shards.write(shard, **_edges(model, asked, samples, floor, cascade, batch_size, precision, bar))
    ranks.wait()
    return shards


def read_edges(shards: Shards, floor: float) -> SparseEdges:
    """All edges of `predict_edges`, which was called with this floor, in files beside the shards that vanish with the process.

    They are mapped: memory is 12 bytes a sample, and disk 8 bytes an edge. From 2^31 edges on memory is 8 bytes an edge too.

    Raises:
        DataError: a shard is missing, was cut short, or does not hold what it should.
        OSError: the disk is full.
    """
    starts = np.zeros(shards.rows + 1, np.int64)
    for i in range(len(shards)):
        samples, degree, targets, probability, _ = shards.read(i)
        if len(samples) != len(degree) or not degree.sum() == len(targets) == len(probability):
            raise DataError(f"shard {i} of {shards.folder} is damaged: remove its files and run the same command again")
        starts[samples + 1] = degree
    np.cumsum(starts, out=starts)
    all_targets, all_probability = (scratch_array(shards.folder, int(starts[-1]), kind) for kind in ("<i4", "<f4"))
    for i in range(len(shards)):
        samples, degree, targets, probability, _ = shards.read(i)
        behind = np.cumsum(degree, dtype=np.int64) - degree
        for part in np.array_split(np.arange(len(samples)), -(-len(targets) // PLACED_TOGETHER) or 1):
            edges = slice(behind[part[0]], behind[part[-1]] + degree[part[-1]])
            places = np.repeat(starts[samples[part]] - behind[part], degree[part]) + np.arange(edges.start, edges.stop)
            all_targets[places], all_probability[places] = targets[edges], probability[edges]
    if starts[-1] <= np.iinfo(np.int32).max:
        # scipy would copy the targets to the type of the starts.
        starts = starts.astype(np.int32)
    shape = (shards.rows, shards.rows)
    return SparseEdges(scipy.sparse.csr_array((all_probability, all_targets, starts), shape=shape), floor)


def local_order(features: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """An order of the samples int32 [N] in which those nearest to the same pivot stand together; the same for equal features."""
    total, width = features.shape
    pivots = np.random.default_rng(0).permutation(total)[: max(1, min(PIVOTS, int(total**0.5)))]
    nearest = np.empty(total, np.int32)
    table = np.ascontiguousarray(features[np.sort(pivots)]).T
    step = max(1, 2**22 // max(width, table.shape[1]))
    for start in range(0, total, step):
        nearest[start : start + step] = (features[start : start + step] @ table).argmax(1)
    return np.argsort(nearest, kind="stable").astype(np.int32)


def _rows(
    tables: list[npt.NDArray[np.int32]], samples: npt.NDArray[np.int32], shard_rows: int
) -> npt.NDArray[np.int32]:
    """The rows of a table in shards, each shard read front to back."""
    found = np.empty((len(samples), tables[0].shape[1]), np.int32)
    by_id = np.argsort(samples)
    cuts = np.searchsorted(samples[by_id], np.arange(len(tables) + 1) * shard_rows)
    for i, table in enumerate(tables):
        places = by_id[cuts[i] : cuts[i + 1]]
        found[places] = table[samples[places] - i * shard_rows]
    return found


def _edges(
    model: nn.Intraformer,
    clusters: Clusters,
    samples: npt.NDArray[np.int32],
    floor: float,
    cascade: float,
    batch_size: int,
    precision: str,
    bar: "tqdm[Any]",
) -> dict[str, npt.NDArray[Any]]:
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("degree", "targets", "probability", "streams")}
    for start in range(0, len(samples), batch_size):
        rows = slice(start, min(len(samples), start + batch_size))
        ids = clusters.neighbors[rows].numpy()
        answer, streams = _answer(model, clusters, rows, cascade, precision)
        probability = finite_probability(answer, samples[rows])
        kept = (ids >= 0) & (ids != samples[rows, None]) & (probability > floor)
        column = np.argsort(np.where(kept, ids, np.iinfo(np.int32).max), axis=1)
        kept, ids, probability = (np.take_along_axis(array, column, 1) for array in (kept, ids, probability))
        parts["degree"].append(kept.sum(1, dtype=np.int32))
        parts["targets"].append(ids[kept])
        parts["probability"].append(probability[kept])
        parts["streams"].append(streams)
        bar.update(len(ids))
    return {"samples": samples, **{name: np.concatenate(arrays) for name, arrays in parts.items()}}


def _precision(model: nn.Intraformer, clusters: Clusters, cascade: float, precision: str) -> str:
    precision = inference_precision(model, clusters.device, precision)
    if cascade and precision == "int8":
        raise ValueError(
            "a cascade computes stream by stream, for which there is no int8: choose cascade=0, or fp32 or bf16"
        )
    return precision


def _answer(
    model: nn.Intraformer, clusters: Clusters, rows: slice, cascade: float, precision: str
) -> tuple[Tensor, npt.NDArray[np.int8]]:
    """Probabilities [b, n], 0 at padding, and how many streams were computed [b]."""
    if cascade:
        _, x, valid = clusters.gather(rows)
        with autocast(precision, clusters.device):
            answer = cascaded(model, x, valid, cascade)
        return answer.probability, answer.streams.to(torch.int8).cpu().numpy()
    logits, valid = clusters.logits(model, rows, precision)
    probability = logits.sigmoid() if valid is None else logits.sigmoid().masked_fill(~valid, 0.0)
    return probability, np.full(len(probability), model.num_subclusters, np.int8)


def predict_cascade(
    model: nn.Intraformer,
    features: Array,
    neighbors: Array,
    cascade: float,
    *,
    batch_size: int = 256,
    precision: str = "auto",
) -> tuple[npt.NDArray[np.float32], float]:
    """`inference.predict_probability` by a cascade, in memory: float32 [M, n], and the share of the operations that it took."""
    clusters = Clusters(model, features, neighbors)
    precision = _precision(model, clusters, cascade, precision)
    probability, streams = [], []
    with evaluating(model), computing(model, precision):
        for start in range(0, len(clusters.neighbors), batch_size):
            rows = slice(start, min(len(clusters.neighbors), start + batch_size))
            answer, of = _answer(model, clusters, rows, cascade, precision)
            probability.append(finite_probability(answer, range(rows.start, rows.stop)))
            streams.append(of)
    return np.concatenate(probability), flops_share(model, np.concatenate(streams), clusters.neighbors.shape[1])


def flops_share(model: nn.Intraformer, streams: npt.NDArray[np.int8], n: int) -> float:
    """Operations of clusters of n in which so many streams were computed, over those of all streams in all."""
    flops = np.cumsum(stream_flops(model, n))
    return float(flops[streams - 1].mean() / flops[-1])


def _fingerprint(model: nn.Intraformer) -> str:
    digest = hashlib.blake2b(repr(sorted(model.config.items())).encode(), digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
