"""A checked neighbor table with its edge probabilities, read in blocks of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from intraformer_fast.errors import DataError

BLOCK_ELEMENTS = 2**22
"""Table entries looked at together."""


class Edges(Protocol):
    """What the rules ask of a graph; all but "density" ask no more."""

    def __len__(self) -> int: ...

    def edges_above(self, threshold: float) -> scipy.sparse.csr_array:
        """The directed edges of probability > threshold, [N, N]; a row's columns rise, and none is the row itself."""


@dataclass(frozen=True)
class SparseEdges:
    """The edges that a model keeps, without a table of all that it was asked about.

    Attributes:
        probability: float32 [N, N]; a row's columns rise, none is the row itself, and each exceeds `floor`.
        floor: edges of this probability and less are not there.
    """

    probability: scipy.sparse.csr_array
    floor: float

    def __len__(self) -> int:
        return self.probability.shape[0]

    def edges_above(self, threshold: float) -> scipy.sparse.csr_array:
        """As `Edges`; at the floor these are the edges themselves, not a copy.

        Raises:
            ValueError: the threshold is below the floor.
        """
        if threshold < self.floor:
            raise ValueError(
                f"threshold = {threshold}: edges of {self.floor} and less were not kept; choose a higher threshold, or make the "
                "edges again with a lower one"
            )
        if threshold == self.floor:
            return self.probability
        kept = self.probability.data > threshold
        starts = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[self.probability.indptr]
        arrays = (self.probability.data[kept], self.probability.indices[kept], starts)
        return scipy.sparse.csr_array(arrays, shape=self.probability.shape)


@dataclass(frozen=True)
class NeighborTable:
    """Candidate edges i -> neighbors[i, j], each with its similarity and its probability of joining two of one class.

    Entries of -1 and entries that name their own row are no edges, in whatever column they stand.

    Attributes:
        neighbors: integer [N, n].
        similarity: floating [N, n].
        probability: floating [N, n].
    """

    neighbors: NDArray[Any]
    similarity: NDArray[Any]
    probability: NDArray[Any]

    def __len__(self) -> int:
        return len(self.neighbors)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Runs of rows, each with the mask [rows, n] of the entries that are edges."""
        total, width = self.neighbors.shape
        step = max(1, BLOCK_ELEMENTS // width)
        for start in range(0, total, step):
            rows = slice(start, min(start + step, total))
            neighbors = self.neighbors[rows]
            yield rows, (neighbors >= 0) & (neighbors != np.arange(start, rows.stop)[:, None])

    def edges_above(self, threshold: float) -> scipy.sparse.csr_array:
        """The directed edges of probability > threshold as a sparse [N, N] matrix that holds their probabilities."""
        counts, ids, values = [], [], []
        precision = np.result_type(self.probability.dtype, np.float32)  # scipy's sparse matrices know no float16
        for rows, edge in self.blocks():
            kept = edge & (self.probability[rows] > threshold)
            counts.append(np.count_nonzero(kept, axis=1))
            ids.append(self.neighbors[rows][kept])
            values.append(self.probability[rows][kept].astype(precision, copy=False))
        starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        shape = (len(self), len(self))
        matrix = scipy.sparse.csr_array((np.concatenate(values), np.concatenate(ids), starts), shape=shape)
        matrix.sort_indices()
        return matrix


def neighbor_table(
    neighbors: ArrayLike | Tensor, similarity: ArrayLike | Tensor, probability: ArrayLike | Tensor
) -> NeighborTable:
    """Check the three arrays; what stands at padding is not looked at.

    Raises:
        TypeError: neighbors not integers, or similarity or probability not floating.
        ValueError: not two-dimensional, empty, or of different shapes.
        DataError: an id outside -1..N-1 or twice in a row, a similarity that is not finite, or a probability outside
            [0, 1]; the row is named.
    """
    table = NeighborTable(as_array(neighbors), as_array(similarity), as_array(probability))
    shape = table.neighbors.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"neighbors must be [N, n] with at least one row and one column, got shape {shape}")
    if table.neighbors.dtype.kind not in "iu":
        raise TypeError(f"neighbors must be integers, got dtype {table.neighbors.dtype}")
    for name, values in (("similarity", table.similarity), ("probability", table.probability)):
        if values.shape != shape:
            raise ValueError(f"{name} must have the shape of neighbors, {shape}, got {values.shape}")
        if values.dtype.kind != "f":
            raise TypeError(f"{name} must be floating numbers, got dtype {values.dtype}")
    for rows, edge in table.blocks():
        ids, similarities, probabilities = (
            array[rows] for array in (table.neighbors, table.similarity, table.probability)
        )
        ordered = np.sort(ids, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        _refuse(rows, ids, (ids < -1) | (ids >= len(table)), f"neighbors must be -1 or an id below {len(table)}")
        _refuse(rows, ordered[:, 1:], twice, "neighbors must not list an id twice in a row")
        _refuse(rows, similarities, edge & ~np.isfinite(similarities), "similarity must be finite")
        outside = edge & ~((probabilities >= 0) & (probabilities <= 1))
        _refuse(rows, probabilities, outside, "probability must lie in [0, 1]")
    return table


def _refuse(rows: slice, values: NDArray[Any], wrong: NDArray[np.bool_], expected: str) -> None:
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(f"{expected}, but row {rows.start + row} holds {values[row, column]}")


def as_array(values: ArrayLike | Tensor) -> NDArray[Any]:
    """The numpy array of an array or tensor, without a copy where there can be none."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)
