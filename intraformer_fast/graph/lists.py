"""Inverted lists searched list by list: the approximate search of a whole set by itself, in the native library."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intraformer_fast import native

ROUNDS = 5
"""Of the k-means that makes the lists."""

TRAINED_ON = 32
"""Rows of the k-means for each list, at most."""

BLOCK = 2**14
"""Rows that are given to a list at once."""


@dataclass(frozen=True)
class InvertedLists:
    """The rows of a set, each in the list of the centroid it is nearest to.

    Attributes:
        centroids: float32 [L, d], of length 1.
        starts: int64 [L + 1]; list l is ids[starts[l] : starts[l + 1]], and so of the rows.
        ids: int32 [N], which rows; they rise within a list.
        rows: float32 [N, d], those rows; may be memory-mapped.
    """

    centroids: Tensor
    starts: Tensor
    ids: Tensor
    rows: Tensor

    def search(self, queries: Tensor, probes: int, count: int) -> tuple[Tensor, Tensor]:
        """The best rows of the `probes` lists whose centroids are nearest to each query.

        Args:
            queries: float32 [b, d].

        Returns:
            scores float32 [b, count], falling, and ids int64 [b, count]; -infinity and -1 where the lists hold fewer.
        """
        lists = nearest_centroids(self.centroids, queries, min(probes, len(self.centroids))).int()
        places, scores = _search(self.rows, self.starts, queries, lists, count)
        return scores, self.ids[places.clamp(min=0)].long().masked_fill_(places < 0, -1)


def not_supported_reasons() -> list[str]:
    """Why these lists cannot be searched here; none where they can."""
    return native.NOT_LOADED["cpu"]


def nearest_centroids(centroids: Tensor, rows: Tensor, count: int) -> Tensor:
    """int64 [b, count], by falling inner product, equal ones by rising number: one list, that of the centroids."""
    whole = torch.tensor([0, len(centroids)])
    return _search(centroids, whole, rows, torch.zeros(len(rows), 1, dtype=torch.int32), count)[0]


def assigned(rows: NDArray[np.float32], lists: int) -> tuple[Tensor, NDArray[np.int32]]:
    """Centroids float32 [L, d] and the list of each row int32 [N]: k-means by inner products on a sample, the same every time."""
    rng = np.random.default_rng(0)
    sample = rng.permutation(len(rows))[: TRAINED_ON * lists]
    points = rows[np.sort(sample)]
    centroids = torch.from_numpy(rows[np.sort(sample[:lists])])
    for _ in range(ROUNDS):
        of = _assign(points, centroids)
        order = np.argsort(of, kind="stable")
        found, first = np.unique(of[order], return_index=True)
        sums = np.add.reduceat(points[order], first, axis=0, dtype=np.float64)
        # A list that lost all its rows starts anew from one of them.
        means = points[rng.integers(0, len(points), lists)].astype(np.float64)
        means[found] = sums
        lengths = np.sqrt((means * means).sum(axis=1, keepdims=True))
        centroids = torch.from_numpy((means / np.maximum(lengths, 1e-30)).astype(np.float32))
    return centroids, _assign(rows, centroids)


def inverted_lists(
    rows: NDArray[np.float32], lists: int, listed: Callable[[NDArray[np.int32]], Tensor]
) -> InvertedLists:
    """Rows of length 1, float32 [N, d], in so many lists.

    Args:
        listed: makes the rows in the order that it is given, in memory or in a file.
    """
    centroids, of = assigned(rows, lists)
    ids = np.argsort(of, kind="stable").astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=lists))])
    return InvertedLists(centroids, torch.from_numpy(starts), torch.from_numpy(ids), listed(ids))


def _assign(rows: NDArray[np.float32], centroids: Tensor) -> NDArray[np.int32]:
    of = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), BLOCK):
        block = torch.from_numpy(np.array(rows[start : start + BLOCK]))
        of[start : start + BLOCK] = nearest_centroids(centroids, block, 1)[:, 0].numpy()
    return of


def _search(rows: Tensor, starts: Tensor, queries: Tensor, probes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return torch.ops.intraformer_fast.list_search.default(rows, starts, queries, probes, count)
