"""Cosine similarity that is the same number everywhere, and neighbor lists ordered by it without ties.

Unit vectors are rounded to multiples of 2^-24. Products of two such components are multiples of 2^-48, and by
Cauchy-Schwarz every partial sum of an inner product stays near 1 or below: float64 adds them without rounding, in any
order. So the similarity of a pair depends on its two rows alone: not on the block it is computed in, the BLAS, the
threads, the device, or which of the two asks. Rounding moves a cosine by some 1e-8, less than float32 does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from intraformer_fast import native
from intraformer_fast.errors import DataError

GRID = 2.0**24
"""Steps in 1: the finest grid on [-1, 1] that float32 holds exactly."""

BLOCK_ELEMENTS = 2**23
"""Elements of the largest temporary array (64 MiB in float64)."""

NO_KEY = torch.iinfo(torch.int64).min
_ID_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class UnitTable:
    """Feature rows of length 1.

    Attributes:
        rows: float32 [N, d], multiples of 2^-24.
        inverse_norm: float64 [N], 1 / |row|, which corrects what rounding to the grid did to the length.
    """

    rows: Tensor
    inverse_norm: Tensor

    def __len__(self) -> int:
        return self.rows.shape[0]

    def to(self, device: torch.device) -> "UnitTable":
        return UnitTable(self.rows.to(device), self.inverse_norm.to(device))

    def nearest_among(self, queries: Tensor, candidates: Tensor, count: int) -> Tensor:
        """Keys (see `rank_keys`) of the `count` best candidates of each query, the query itself first, best first.

        Args:
            queries: int64 [b].
            candidates: int64 [b, m], no id twice in a row; -1 is skipped; whether the query itself is listed does not
                matter.
            count: at most m + 1; where too few candidates are given, NO_KEY fills the end of the row.
        """
        if self.rows.device.type == "cpu" and not native.NOT_LOADED["cpu"]:
            best = torch.ops.intraformer_fast.best_cosines.default
            return best(self.rows, self.inverse_norm, queries, candidates.contiguous(), count)
        listed = torch.cat([queries[:, None], candidates], dim=1)
        result = []
        step = max(1, BLOCK_ELEMENTS // (listed.shape[1] * self.rows.shape[1]))
        for ids, query in zip(listed.split(step), queries.split(step), strict=True):
            skipped = (ids < 0) | (ids == query[:, None])
            skipped[:, 0] = False
            ids = ids.clamp(min=0)
            dots = torch.bmm(self.rows[ids].double(), self.rows[query].double()[:, :, None])[:, :, 0]
            cosine = (dots * (self.inverse_norm[query][:, None] * self.inverse_norm[ids])).float()
            cosine[:, 0] = torch.inf
            keys = rank_keys(cosine, ids).masked_fill_(skipped, NO_KEY)
            result.append(keys.topk(count).values)
        return torch.cat(result)

    def nearest(self, queries: Tensor, count: int) -> Tensor:
        """The same as `nearest_among` with every row of the table a candidate, by brute force in float64."""
        total, width = self.rows.shape
        columns = min(total, max(1, min(2**14, BLOCK_ELEMENTS // width)))
        result = []
        for query in queries.split(max(1, BLOCK_ELEMENTS // max(columns, width))):
            asked = self.rows[query].double()
            best = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
            for start in range(0, total, columns):
                block = slice(start, min(start + columns, total))
                ids = torch.arange(block.start, block.stop, device=query.device)
                dots = asked @ self.rows[block].double().T
                cosine = (dots * (self.inverse_norm[query][:, None] * self.inverse_norm[block])).float()
                cosine.masked_fill_(query[:, None] == ids, torch.inf)
                keys = torch.cat([best, rank_keys(cosine, ids)], dim=1)
                best = keys.topk(min(count, keys.shape[1])).values
            result.append(best)
        return torch.cat(result)


def unit_table(features: ArrayLike | Tensor) -> UnitTable:
    """Check and normalize features, a block of rows at a time: a memory-mapped file is never in memory as a whole.

    Args:
        features: floating [N, d] with N, d >= 1.

    Raises:
        As `unit_blocks`.
    """
    source = as_features(features)
    rows = np.empty(source.shape, dtype=np.float32)
    inverse_norm = np.empty(len(source), dtype=np.float64)
    for block, unit, inverse in unit_blocks(source):
        rows[block], inverse_norm[block] = unit, inverse
    return UnitTable(torch.from_numpy(rows), torch.from_numpy(inverse_norm))


def as_features(features: ArrayLike | Tensor) -> np.ndarray | Tensor:
    """The features as an array or tensor.

    Raises:
        TypeError: not a floating dtype.
        ValueError: not two-dimensional, or empty.
    """
    source = features if isinstance(features, Tensor) else np.asarray(features)
    floating = source.is_floating_point() if isinstance(source, Tensor) else source.dtype.kind == "f"
    if not floating:
        raise TypeError(
            f"features must be floating numbers, got dtype {source.dtype}; convert them, for example to float32"
        )
    if source.ndim != 2 or 0 in source.shape:
        raise ValueError(
            f"features must be [N, d] with at least one row and one column, got shape {tuple(source.shape)}"
        )
    return source


def unit_blocks(source: np.ndarray | Tensor) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The parts of a `UnitTable`, block by block: which rows, float32 [b, d], and float64 [b].

    Raises:
        DataError: a row holds NaN or infinity, or only zeros; the first such row is named.
    """
    total, width = source.shape
    step = max(1, BLOCK_ELEMENTS // width)
    for start in range(0, total, step):
        block = slice(start, min(start + step, total))
        values = _as_float64(source[block])
        # Divided by the largest entry first: squares of very large or very small entries leave the range of float64.
        largest = np.abs(values).max(axis=1, keepdims=True)
        usable = np.isfinite(largest) & (largest > 0)
        if not usable.all():
            first = int(np.argmin(usable))
            fault = "holds only zeros and has no direction" if largest[first] == 0 else "holds NaN or infinity"
            raise DataError(
                f"features[{start + first}] {fault}; every row must be finite and not zero: remove or repair it"
            )
        values /= largest
        values /= np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
        values = np.rint(values * GRID) / GRID
        yield block, values.astype(np.float32), 1 / np.sqrt(np.einsum("ij,ij->i", values, values))


def _as_float64(block: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(block, Tensor):
        block = block.detach().to("cpu", torch.float64).numpy()
    return np.array(block, dtype=np.float64, order="C")


def rank_keys(similarity: Tensor, ids: Tensor) -> Tensor:
    """int64 keys whose falling order is falling similarity, then rising id.

    The upper half is the float32 as an integer of the same order, the lower half the id counted down from 2^32 - 1: no
    two ids share a key, so a partial sort has one right answer.
    """
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 one value
    return _flip_negative(bits).long().bitwise_left_shift_(32).add_(_ID_MASK - ids)


def read_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(ids int64, similarity float32) of `rank_keys`; NO_KEY reads as (-1, 0)."""
    missing = keys == NO_KEY
    similarity = _flip_negative((keys >> 32).int()).view(torch.float32)
    return (_ID_MASK - (keys & _ID_MASK)).masked_fill_(missing, -1), similarity.masked_fill_(missing, 0)


def _flip_negative(bits: Tensor) -> Tensor:
    """Reverse the order of negative floats seen as integers; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
