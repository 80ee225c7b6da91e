"""Training targets of candidate edges."""

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from intraformer_fast.graph.table import as_array


@overload
def candidate_targets(neighbors: Tensor, labels: ArrayLike | Tensor) -> Tensor: ...
@overload
def candidate_targets(neighbors: ArrayLike, labels: ArrayLike | Tensor) -> NDArray[np.bool_]: ...
def candidate_targets(neighbors: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> NDArray[np.bool_] | Tensor:
    """y[b, j] = whether neighbor j has the label of the centroid, neighbors[b, 0].

    Args:
        neighbors: integer [B, n], the whole table or any rows of it; -1 is padding.
        labels: integer [N], of every sample.

    Returns:
        bool [B, n], False at padding; a torch tensor on the device of `neighbors` where that is one, a numpy array
        otherwise.

    Raises:
        TypeError: neighbors not integers.
        ValueError: wrong shapes, or an id outside -1..N-1.
    """
    ids = as_array(neighbors)
    classes: NDArray[Any] = as_array(labels)
    if ids.ndim != 2 or ids.shape[1] == 0 or classes.ndim != 1 or len(classes) == 0:
        raise ValueError(f"neighbors must be [B, n] and labels [N], none empty, got {ids.shape} and {classes.shape}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"neighbors must be integers, got dtype {ids.dtype}")
    least, most = ids.min(initial=0), ids.max(initial=0)
    if least < -1 or most >= len(classes):
        raise ValueError(f"neighbors must hold -1 or ids below {len(classes)}, got {least} to {most}")
    of = classes[ids]
    targets = (of == of[:, :1]) & (ids >= 0) & (ids[:, :1] >= 0)
    return torch.from_numpy(targets).to(neighbors.device) if isinstance(neighbors, Tensor) else targets
