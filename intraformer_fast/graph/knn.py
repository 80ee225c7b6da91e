"""k-nearest-neighbor graphs under cosine similarity."""

import functools
import logging
import math
import operator
from collections.abc import Callable
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from intraformer_fast.graph import lists
from intraformer_fast.graph.cosine import NO_KEY, UnitTable, read_keys, unit_table
from intraformer_fast.graph.engines import (
    Plan,
    Searcher,
    faiss_index,
    faiss_searcher,
    import_faiss,
    ivf_lists,
    lists_searcher,
    plan_search,
    torch_searcher,
)
from intraformer_fast.graph.lists import inverted_lists

QUERIES = 2**14
"""Queries answered at once. Lists are searched for all of them together, the faster the more there are."""

SPARE = 16
"""Candidates fetched beyond k, so that what lies at the cut is seen."""

RECALL = 0.95
"""What IVF has to find of the true neighbors of a sample, by default."""

RECALL_QUERIES = 1024
"""Rows whose neighbors are also searched exactly, to measure what an index finds."""

FEWEST_PROBES = 8
"""Inverted lists searched per query at first."""

logger = logging.getLogger("intraformer_fast")


@overload
def knn_graph(features: Tensor, k: int, *, index: str = ..., device: str = ...) -> tuple[Tensor, Tensor]: ...
@overload
def knn_graph(
    features: ArrayLike, k: int, *, index: str = ..., device: str = ...
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def knn_graph(
    features: ArrayLike | Tensor, k: int, *, index: str = "auto", device: str = "auto"
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | tuple[Tensor, Tensor]:
    """The k nearest neighbors of every row under cosine similarity, the row itself first.

    Rows are normalized here; lengths do not matter. A row's neighbors stand in order of falling similarity, equal
    similarities in order of rising id, and the row itself before all others, duplicates of it included. Equal means
    equal as the float32 that is returned; identical rows have similarity 1 exactly, and similarity[i] of j is
    similarity[j] of i to the last bit.

    The exact search is complete, ties at the k-th place included, and its result is the same bits from every engine,
    device and number of threads: faiss or torch propose candidates in float32, their similarities are computed anew
    without rounding (see `cosine.py`), and where float32 cannot prove that no better candidate was left out the row is
    searched again in float64. IVF, HNSW and NN-descent can miss neighbors; what they find is scored and ordered the same way, and
    a row for which they find fewer than k is searched exactly. IVF searches as few lists as find the share `RECALL` of the true
    neighbors of a sample of 1,024 rows, and logs what it found. The result of the graphs, and of IVF by faiss, can depend on the
    machine and the version of faiss; that of IVF by the native library is the same for any number of threads.

    Memory: two float32 copies of the features (an index holds one), the result, and blocks of some hundred MiB.

    Args:
        features: floating [N, d], numpy (memory-mapped too), torch, or nested lists; any float dtype. Finite, no row
            all zeros.
        k: neighbors per row, the row itself counted. Where k > N each row ends in k - N times -1 with similarity 0.
        index: "exact"; "ivf" (inverted lists, by the native library, by faiss on GPUs or without it); "hnsw" (a navigable graph by
            faiss, built by one thread so that it can be repeated); "nndescent" (another such graph, by NN-descent); or "auto", the
            default: exact up to `engines.EXACT_LIMIT` samples (50,000 on the CPU, 1,000,000 on a GPU), IVF above. IVF rather than a
            graph because it builds faster, repeats, and runs on GPUs. Without the native library and faiss "auto" is always exact.
        device: "cpu", "cuda", or "auto", the default: a GPU where faiss or torch see one. Where the result lies follows
            `features`.

    Returns:
        neighbors int64 [N, k] and similarity float32 [N, k]: torch tensors on the device of `features` where that is a
        torch tensor, numpy arrays otherwise.

    Raises:
        TypeError: `features` are not floating, or k is not an integer.
        ValueError: wrong shape, k < 1, unknown index or device, or a device that is not there.
        DataError: NaN, infinity or a zero row, which is named.
        MissingDependencyError: index "hnsw" or "nndescent" without faiss, or "ivf" without it and the native library.
    """
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"k must be at least 1 (the sample itself), got {k}")
    faiss = import_faiss()
    # An unknown index or a missing package is told before the features are read, which can take minutes.
    plan_with(faiss, 1, 1, index, device)

    table = unit_table(features)
    total = len(table)
    count = min(k, total)
    plan = plan_with(faiss, total, fetched(count, total), index, device)
    _tell(plan.index, plan.engine, plan.reason)
    neighbors = torch.full((total, k), -1, dtype=torch.int64)
    similarity = torch.zeros(total, k)

    rows = table.rows.numpy()
    table = table.to(search_device(device))
    if plan.engine == "torch":
        search = torch_searcher(table)
    elif plan.index == "ivf":
        search_of = _ivf_in_memory(faiss, plan, table, rows, fetched(count, total))
        search, probes, recall = tuned(search_of, table, plan, count, RECALL)
        logger.info("knn_graph: %d of %d lists find %.1f %% of a sample", probes, ivf_lists(total), 100 * recall)
    else:
        search = faiss_searcher(faiss, plan, faiss_index(faiss, plan, rows, fetched(count, total)), rows)
    for queries in torch.arange(total, device=table.rows.device).split(QUERIES):
        block = slice(int(queries[0]), int(queries[-1]) + 1)
        neighbors[block, :count], similarity[block, :count] = nearest(table, search, plan, queries, count)

    if isinstance(features, Tensor):
        return neighbors.to(features.device), similarity.to(features.device)
    return neighbors.numpy(), similarity.numpy()


def _ivf_in_memory(
    faiss: Any, plan: Plan, table: UnitTable, rows: NDArray[np.float32], fetch: int
) -> Callable[[int], Searcher]:
    if plan.engine == "native":
        listed = inverted_lists(rows, ivf_lists(len(rows)), lambda ids: torch.from_numpy(rows[ids]))
        return lambda probes: lists_searcher(listed, table, probes)
    built = faiss_index(faiss, plan, rows, fetch)
    return lambda probes: faiss_searcher(faiss, plan, built, rows, probes)


def plan_with(faiss: Any | None, samples: int, fetch: int, index: str, device: str) -> Plan:
    """`plan_search` with what is installed here."""
    faiss_build = "none" if faiss is None else "gpu" if faiss.get_num_gpus() > 0 else "cpu"
    native = not lists.not_supported_reasons()
    return plan_search(samples, fetch, index, device, faiss_build, torch.cuda.is_available(), native)


def search_device(device: str) -> torch.device:
    """Where similarities are computed."""
    return torch.device("cuda" if torch.cuda.is_available() and device != "cpu" else "cpu")


def tuned(
    search_of: Callable[[int], Searcher], table: UnitTable, plan: Plan, count: int, wanted: float
) -> tuple[Searcher, int, float]:
    """As few lists as find enough: the search, its probes, and the share of the true neighbors of a sample that it finds.

    Probes are doubled from `FEWEST_PROBES` on until it is enough, and halved back to within an eighth of the least.

    Args:
        search_of: the search through so many lists.
        wanted: share of the neighbors, in (0, 1].
    """
    ask = recall_of(table, plan, count)
    most = ivf_lists(len(table))
    low, high = 0, min(FEWEST_PROBES, most)
    while (found := ask(search_of(high))) < wanted and high < most:
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 8):
        middle = (low + high) // 2
        share = ask(search_of(middle))
        if share >= wanted:
            high, found = middle, share
        else:
            low = middle
    return search_of(high), high, found


def recall_of(table: UnitTable, plan: Plan, count: int) -> Callable[[Searcher], float]:
    """What measures a search: the share of the true neighbors that it finds for a sample of rows, themselves not counted."""
    queries = torch.from_numpy(np.random.default_rng(0).permutation(len(table))[:RECALL_QUERIES]).to(table.rows.device)
    true = nearest(table, torch_searcher(table), Plan("exact", "torch", ""), queries, count)[0]

    def ask(search: Searcher) -> float:
        found = nearest(table, search, plan, queries, count)[0]
        hits = sum(int(torch.isin(a, b).sum()) for a, b in zip(true, found, strict=True))
        return (hits - len(queries)) / max(1, len(queries) * (count - 1)) if count > 1 else 1.0

    return ask


def fetched(count: int, total: int) -> int:
    """Candidates to ask an index for, that `count` neighbors come of it."""
    return min(count + SPARE, total)


def nearest(table: UnitTable, search: Searcher, plan: Plan, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The neighbors int64 [b, count] and similarities float32 [b, count] of these rows, on the CPU, as `knn_graph` has them."""
    total, width = table.rows.shape
    fetch = fetched(count, total)
    scores, candidates = search(queries, fetch)
    keys = table.nearest_among(queries, candidates, count)
    proven = keys[:, -1] != NO_KEY
    if plan.index == "exact" and fetch < total:
        # Whatever was not fetched scored at most scores[:, -1].
        proven &= read_keys(keys[:, -1])[1] > scores[:, -1] + _score_error(width)
    doubtful = torch.nonzero(~proven)[:, 0]
    if len(doubtful):
        keys[doubtful] = table.nearest(queries[doubtful], count)
    ids, values = read_keys(keys)
    values[:, 0] = 1
    return ids.cpu(), values.cpu()


def _score_error(width: int) -> float:
    """The most a float32 score can differ from the similarity returned.

    With u = 2^-24: d u for a sum of d products in any order, sqrt(d) u for the length of the two rounded rows, u / 2
    for the rounding of the result; doubled where that is cheap, since the comparison rounds too.
    """
    return (width + 2 * math.sqrt(width) + 4) * 2.0**-24


@functools.cache
def _tell(index: str, engine: str, reason: str) -> None:
    level = logging.WARNING if "not installed" in reason else logging.INFO
    logger.log(level, "knn_graph: %s search by %s (%s)", index, engine, reason)
