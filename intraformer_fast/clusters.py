"""Clusters as a model takes them: a feature table and a neighbour table, checked, and the batches gathered from them."""

import copy
import hashlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from intraformer_fast import nn
from intraformer_fast.data.checks import block_rows
from intraformer_fast.errors import DataError
from intraformer_fast.precision import autocast, full_precision

Array = npt.NDArray[Any] | Tensor

# Rows of a table that its fingerprint looks at.
FINGERPRINT_ROWS = 1024


class Batch(NamedTuple):
    """Clusters ready for a model.

    ids: int64 [B, n], on the table's device; -1 is padding. x: [B, n, d], their features, and valid: bool[B, n], None
    without padding, on the model's device.
    """

    ids: Tensor
    x: Tensor
    valid: Tensor | None


class Clusters:
    """A feature table and a neighbour table, checked once against a model; batches are gathered from them by row.

    Memory-mapped tables are read by the rows of a batch, apart from the checks, which read them in blocks.

    Args:
        model: gives the width of a feature, the most neighbours, device and dtype.
        features: [N, d], floating point; on the CPU or, as a tensor, already on the model's device.
        neighbors: int[M, n] rows of `features`, each row's centroid first; -1 is padding.

    Raises:
        ValueError: a shape is wrong. TypeError: a dtype is.
        DataError: a feature is not finite, an id is no row of `features`.
    """

    def __init__(self, model: nn.Intraformer, features: Array, neighbors: Array) -> None:
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.features = as_tensor(features, "features")
        self.neighbors = as_tensor(neighbors, "neighbors")
        if self.features.dim() != 2 or self.features.shape[1] != model.input_dim or not len(self.features):
            raise ValueError(
                f"features has shape {tuple(self.features.shape)}: expected [N, {model.input_dim}] with N at least 1, "
                f"since this model was made with input_dim = {model.input_dim}"
            )
        if not self.features.is_floating_point():
            raise TypeError(f"features is {self.features.dtype}: expected a floating-point dtype, best float32")
        if self.neighbors.dim() != 2 or 0 in self.neighbors.shape:
            raise ValueError(f"neighbors has shape {tuple(self.neighbors.shape)}: expected [N, n], both at least 1")
        if self.neighbors.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"neighbors is {self.neighbors.dtype}: expected int64 or int32")
        if model.knows_ranks and self.neighbors.shape[1] > model.num_neighbors:
            raise ValueError(
                f"neighbors has {self.neighbors.shape[1]} columns and the model learned {model.num_neighbors} ranks: "
                "give fewer columns or make the model with a larger num_neighbors"
            )
        self.padded = _check_ids(self.neighbors, len(self.features), "neighbors", smallest=-1) < 0
        _check_finite(self.features)

    def with_neighbors(self, neighbors: npt.NDArray[Any]) -> "Clusters":
        """Other rows, as wide as these, over the same features, which are not checked again.

        Raises:
            DataError: an id is no row of the features.
        """
        other = copy.copy(self)
        other.neighbors = as_tensor(neighbors, "neighbors")
        other.padded = _check_ids(other.neighbors, len(self.features), "neighbors", smallest=-1) < 0
        return other

    def gather(self, rows: slice | Tensor) -> Batch:
        """The clusters of these rows of the neighbour table."""
        ids = self.neighbors[rows].long()
        kept = ids.clamp(min=0) if self.padded else ids
        x = self.features[kept.to(self.features.device)].to(self.device, self.dtype)
        return Batch(ids, x, (ids >= 0).to(self.device) if self.padded else None)

    def logits(self, model: nn.Intraformer, rows: slice | Tensor, precision: str) -> tuple[Tensor, Tensor | None]:
        """The model's answer on these rows, on its device: (logits [B, n], float32 or float64; valid, as `Batch`)."""
        _, x, valid = self.gather(rows)
        with autocast(precision, self.device):
            logits = model(x, valid)
        return full_precision(logits), valid


class LabeledClusters(Clusters):
    """Clusters with the identity of every sample, row i of the neighbour table being the cluster of sample i.

    Args:
        model, features: as `Clusters`.
        labels: int[N], identities, at least 0.
        neighbors: int[N, n].
        rows: int[R], the samples whose clusters are meant. None means all.
        name: what the data is called in errors, such as "the training set".

    Raises:
        ValueError, TypeError, DataError: as `Clusters`; or for `labels` and `rows` the same; or a neighbour row does not
            begin with its own sample.
    """

    def __init__(
        self,
        model: nn.Intraformer,
        features: Array,
        labels: Array,
        neighbors: Array,
        rows: Array | None = None,
        *,
        name: str,
    ) -> None:
        super().__init__(model, features, neighbors)
        size = len(self.features)
        if len(self.neighbors) != size:
            raise ValueError(
                f"{name} has {size} rows of features and {len(self.neighbors)} of neighbors: expected one each a sample"
            )
        self.labels = as_tensor(labels, "labels").cpu()
        if self.labels.shape != (size,):
            raise ValueError(
                f"labels of {name} has shape {tuple(self.labels.shape)}: expected [{size}], one a row of features"
            )
        self.labels = _as_ids(self.labels, f"labels of {name}")
        if int(self.labels.min()) < 0:
            row = int((self.labels < 0).nonzero()[0])
            raise DataError(
                f"labels[{row}] of {name} is {int(self.labels[row])}: expected identities of at least 0, "
                "leave samples of unknown identity out"
            )
        if rows is None:
            self.rows = torch.arange(size)
        else:
            self.rows = _as_ids(as_tensor(rows, "rows").cpu(), f"rows of {name}")
            if self.rows.dim() != 1 or not len(self.rows):
                raise ValueError(f"rows of {name} has shape {tuple(self.rows.shape)}: expected [R] with R at least 1")
            _check_ids(self.rows, size, f"rows of {name}", smallest=0)
        first = self.neighbors[self.rows, 0].cpu()
        wrong = (first != self.rows) & (first != -1)
        if wrong.any():
            row = int(self.rows[wrong][0])
            raise DataError(
                f"neighbors[{row}] of {name} begins with {int(first[wrong][0])}: expected each sample to be the first of "
                "its own neighbours"
            )

    def targets(self, ids: Tensor) -> Tensor:
        """bool[B, n], on the CPU: whether a neighbour has the identity of its centroid. Anything at padding."""
        identity = self.labels[ids.cpu().clamp(min=0)]
        return identity == identity[:, :1]

    def fingerprint(self) -> dict[str, Any]:
        """What tells data sets apart: sizes, and a hash of all labels and rows and of some rows of the tables."""
        digest = hashlib.blake2b(self.labels.numpy().tobytes() + self.rows.numpy().tobytes(), digest_size=8)
        for table in (self.features, self.neighbors):
            sample = table[:: -(-len(table) // FINGERPRINT_ROWS)].cpu()
            kind = torch.float32 if sample.is_floating_point() else torch.int64
            digest.update(sample.to(kind).numpy().tobytes())
        return {
            "samples": len(self.features),
            "clusters": len(self.rows),
            "neighbors": self.neighbors.shape[1],
            "contents": digest.hexdigest(),
        }


def as_tensor(array: Array, name: str) -> Tensor:
    """The array as a tensor, over the same memory wherever torch can have that, as for a memory map.

    Raises:
        TypeError: torch has no such dtype.
    """
    if isinstance(array, Tensor):
        return array.detach()
    array = np.asarray(array)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # A table mapped read-only is only ever read here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            return torch.from_numpy(array)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} cannot be used as a tensor: {error}") from error


def _as_ids(tensor: Tensor, name: str) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} is {tensor.dtype}: expected int64")
    return tensor.long()


def _check_ids(ids: Tensor, size: int, name: str, *, smallest: int) -> int:
    """The lowest id, all being checked to lie in [smallest, size)."""
    lowest, highest = (int(bound) for bound in ids.aminmax())
    if lowest < smallest or highest >= size:
        padding = ", or -1 for padding" if smallest < 0 else ""
        raise DataError(
            f"{name} holds ids from {lowest} to {highest}: expected rows of features, 0 to {size - 1}{padding}"
        )
    return lowest


def _check_finite(features: Tensor) -> None:
    rows = block_rows(features.shape[1])
    for start in range(0, len(features), rows):
        finite = features[start : start + rows].isfinite().all(1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise DataError(f"features[{row}] holds NaN or infinity: drop the sample or compute its feature again")
