"""k-NN graphs of sets that do not fit in memory: features and index mapped from disk, shards written as they finish."""

import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from intraformer_fast.distributed import ALONE, Ranks
from intraformer_fast.errors import DataError
from intraformer_fast.files import atomic_path, read_json, write_json
from intraformer_fast.graph.cosine import UnitTable, as_features, unit_blocks
from intraformer_fast.graph.engines import (
    Plan,
    Searcher,
    faiss_index,
    faiss_searcher,
    import_faiss,
    ivf_lists,
    lists_searcher,
    torch_searcher,
)
from intraformer_fast.graph.knn import QUERIES, RECALL, fetched, nearest, plan_with, recall_of, search_device, tuned
from intraformer_fast.graph.lists import InvertedLists, inverted_lists
from intraformer_fast.shards import Shards, check_npy, fingerprint, open_shards, save_npy, scratch_array, write_npy

SHARD_ROWS = 2**14
"""Rows of a shard, at most."""

INDEX_GROWTH = 2.0
"""Memory of an index of faiss while it is filled, over what it holds: its lists double when they are full."""

LISTING_BYTES = 24
"""Memory a sample while the native library's lists are made: their order, and which list each sample is in."""

WORKING_BYTES = 2**29
"""Memory beside an index: blocks of queries, candidates and features."""

UNIT_ROWS, INVERSE_NORM, INDEX, SEARCH = "unit-rows.npy", "inverse-norm.npy", "index.faiss", "search.json"
LISTS = tuple(f"lists-{part}.npy" for part in ("centroids", "starts", "ids", "rows"))


@dataclass(frozen=True)
class KnnShards:
    """A finished graph on disk.

    Attributes:
        shards: `neighbors` int32 [b, k] and `similarity` float32 [b, k] of every shard.
        features: float32 [N, d], the rows at length 1, memory-mapped.
        search: how it was made: index, engine, storage, probes, and the `recall` measured on a sample (1 where exact).
    """

    shards: Shards
    features: NDArray[np.float32]
    search: dict[str, Any]

    def tables(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """neighbors and similarity [N, k], mapped from files that vanish with the process.

        Raises:
            As `Shards.read`; OSError where the disk has no room for them.
        """
        rows, width = self.shards.rows, self.shards.read(0)[0].shape[1]
        found = [scratch_array(self.shards.folder, rows * width, kind).reshape(rows, width) for kind in ("<i4", "<f4")]
        for shard in range(len(self.shards)):
            for table, part in zip(found, self.shards.read(shard), strict=True):
                table[self.shards.rows_of(shard)] = part
        return found[0], found[1]


def plan_storage(plan: Plan, samples: int, width: int, memory: int | None) -> tuple[Plan, str]:
    """How the rows of an index are stored so that building it stays within `memory` bytes.

    The native library's lists are float32 on disk, and cost the memory of their order alone. An index of faiss is float32 where
    that fits; else float16 for IVF on the CPU, whose candidates are scored anew from the float32 rows on disk; an exact search then
    does without an index. Without a limit always float32.

    Returns:
        The plan, with another engine where need be, and "float32" or "float16".

    Raises:
        ValueError: it does not fit; the message says what would.
    """
    held = {"float32": samples * (4 * width + 8), "float16": samples * (2 * width + 8)}
    needed = {kind: int(INDEX_GROWTH * size) + WORKING_BYTES for kind, size in held.items()}
    if plan.engine == "native":
        needed["float32"] = samples * LISTING_BYTES + WORKING_BYTES
    if memory is None or needed["float32"] <= memory:
        return plan, "float32"
    if plan.index == "exact":
        return Plan("exact", "torch", "an index would not fit in memory"), "float32"
    if plan.index == "ivf" and plan.engine == "faiss-cpu" and needed["float16"] <= memory:
        return plan, "float16"
    least = needed["float16" if plan.index == "ivf" and plan.engine == "faiss-cpu" else "float32"]
    raise ValueError(
        f"memory = {memory} bytes: index={plan.index!r} of {samples:,} samples of width {width} needs {least} to be built; "
        "give more, or use index='exact', which holds no index and takes longer"
    )


def knn_shards(
    features: NDArray[np.floating] | Tensor,
    k: int,
    folder: str | os.PathLike[str],
    *,
    index: str = "auto",
    device: str = "auto",
    memory: int | None = None,
    recall: float = RECALL,
    shard_rows: int = SHARD_ROWS,
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> KnnShards:
    """The graph of `knn_graph`, written to a folder in shards; the same call goes on where one was stopped.

    The folder also holds the rows at length 1 and the index, both of which are mapped, not read: memory is that of building the
    index, and of some blocks. With an exact search neighbors and similarities are those of `knn_graph` to the last bit. IVF
    searches as few lists as find the share `recall` of the true neighbors of a sample of 1,024 rows; what was found is reported.

    Args:
        features: floating [N, d]; may be memory-mapped.
        k: neighbors per row, the row itself counted.
        folder: of this graph alone.
        index, device: as `knn_graph`.
        memory: bytes that building may take beyond the process itself; see `plan_storage`. None is no limit.
        recall: what IVF has to find, in (0, 1].
        shard_rows: rows of a shard, at most; all have nearly as many, so that ranks have equal work.
        ranks: the processes that share the work; every one makes this call and gets the same.
        progress: whether the first draws a bar on stderr.

    Raises:
        As `knn_graph`; ValueError where the folder belongs to another run or `memory` is too little; DataError where it is
        damaged; OSError where the disk is full.
    """
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"k must be at least 1 (the sample itself), got {k}")
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1], got {recall}")
    folder = Path(folder)
    faiss = import_faiss()
    plan_with(faiss, 1, 1, index, device)
    source = as_features(features)
    total, width = source.shape
    shard_rows = -(-total // -(-total // shard_rows))
    count = min(k, total)
    plan = plan_with(faiss, total, fetched(count, total), index, device)
    plan, storage = plan_storage(plan, total, width, memory)
    identity = {
        "what": "k-NN graph",
        "k": k,
        "index": plan.index,
        "engine": plan.engine if plan.index != "exact" else None,  # an exact graph is the same by any
        "storage": storage,
        "recall": recall,
        "features": fingerprint(source),
    }
    if ranks.is_first:
        open_shards(folder, total, shard_rows, ("neighbors", "similarity"), identity)
        _write_unit_table(source, folder)
    ranks.wait()
    shards = open_shards(folder, total, shard_rows, ("neighbors", "similarity"), identity)
    table = UnitTable(*(_mapped(folder / name) for name in (UNIT_ROWS, INVERSE_NORM)))
    rows = table.rows.numpy()
    table = table.to(search_device(device))
    if ranks.is_first and not (folder / SEARCH).exists():
        _prepare_search(faiss, plan, table, rows, count, storage == "float16", recall, folder)
    ranks.wait()
    report = read_json(folder / SEARCH)
    missing = shards.missing()
    ranks.wait()  # nobody writes before everybody has looked
    if missing:
        search = _open_search(faiss, plan, table, rows, count, report["probes"], folder)
        mine = missing[ranks.rank :: ranks.size]
        with tqdm(total=len(mine), desc="neighbors", unit="shard", disable=not (progress and ranks.is_first)) as bar:
            for shard in mine:
                _write_shard(shards, shard, table, search, plan, count, k)
                bar.update()
    ranks.wait()
    return KnnShards(shards, rows, report)


def _write_shard(
    shards: Shards, shard: int, table: UnitTable, search: Searcher, plan: Plan, count: int, k: int
) -> None:
    of = shards.rows_of(shard)
    neighbors = np.full((of.stop - of.start, k), -1, np.int32)
    similarity = np.zeros((of.stop - of.start, k), np.float32)
    for queries in torch.arange(of.start, of.stop, device=table.rows.device).split(QUERIES):
        block = slice(int(queries[0]) - of.start, int(queries[-1]) + 1 - of.start)
        ids, values = nearest(table, search, plan, queries, count)
        neighbors[block, :count], similarity[block, :count] = ids.numpy(), values.numpy()
    shards.write(shard, neighbors=neighbors, similarity=similarity)


def _write_unit_table(source: NDArray[np.floating] | Tensor, folder: Path) -> None:
    paths = [folder / UNIT_ROWS, folder / INVERSE_NORM]
    if all(path.exists() for path in paths):
        return
    total, width = source.shape
    with write_npy(paths[0], (total, width), "<f4") as rows, write_npy(paths[1], (total,), "<f8") as norms:
        for _, unit, inverse in unit_blocks(source):
            rows.write(unit.data)
            norms.write(inverse.data)


def _mapped(path: Path) -> Tensor:
    check_npy(path)
    # Private pages ("c"): never written, but torch takes only what it could write.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _prepare_search(
    faiss: Any,
    plan: Plan,
    table: UnitTable,
    rows: NDArray[np.float32],
    count: int,
    float16: bool,
    wanted: float,
    folder: Path,
) -> None:
    """Write the index, where there is one, and search.json, which says how it is to be searched and what that finds."""
    report = {
        "index": plan.index,
        "engine": plan.engine,
        "reason": plan.reason,
        "storage": "float16" if float16 else "float32",
    }
    if plan.index == "exact":
        write_json(folder / SEARCH, {**report, "probes": None, "recall": 1.0})
        return
    if plan.engine == "native":
        _write_lists(rows, folder)
    else:
        built = faiss_index(faiss, plan, rows, fetched(count, len(table)), float16=float16)
        try:
            with atomic_path(folder / INDEX) as temporary:
                faiss.write_index(built, str(temporary))
        except RuntimeError as error:
            raise OSError(f"cannot write {folder / INDEX}: {error}") from error
        del built

    def search_of(probes: int | None) -> Searcher:
        return _open_search(faiss, plan, table, rows, count, probes, folder)

    if plan.index == "ivf":
        _, probes, share = tuned(search_of, table, plan, count, wanted)
        write_json(folder / SEARCH, {**report, "probes": probes, "recall": share})
    else:
        share = recall_of(table, plan, count)(search_of(None))
        write_json(folder / SEARCH, {**report, "probes": None, "recall": share})


def _write_lists(rows: NDArray[np.float32], folder: Path) -> None:
    def listed(ids: NDArray[np.int32]) -> Tensor:
        path = folder / LISTS[-1]
        with write_npy(path, rows.shape, "<f4") as file:
            for start in range(0, len(ids), SHARD_ROWS):
                file.write(rows[ids[start : start + SHARD_ROWS]].data)
        return _mapped(path)

    made = inverted_lists(rows, ivf_lists(len(rows)), listed)
    for name, part in zip(LISTS, (made.centroids, made.starts, made.ids), strict=False):
        save_npy(folder / name, part.numpy())


def _open_search(
    faiss: Any,
    plan: Plan,
    table: UnitTable,
    rows: NDArray[np.float32],
    count: int,
    probes: int | None,
    folder: Path,
) -> Searcher:
    if plan.engine == "torch":
        return torch_searcher(table)
    if plan.index == "exact":
        return faiss_searcher(faiss, plan, faiss_index(faiss, plan, rows, fetched(count, len(table))), rows)
    if plan.engine == "native":
        try:
            lists = InvertedLists(*(_mapped(folder / name) for name in LISTS))
        except (FileNotFoundError, DataError) as error:
            raise DataError(f"{error}; its index is lost: remove {folder} and start again") from error
        assert probes is not None
        return lists_searcher(lists, table, probes)
    try:
        index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP if plan.index == "ivf" else 0)
    except RuntimeError as error:
        raise DataError(f"{folder / INDEX} is missing or damaged: remove {folder} and start again") from error
    return faiss_searcher(faiss, plan, index, rows, probes)
