"""From cells to the arrays of an example's file, and what else all recipes share."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .embed import fit
from .splits import EMBEDDING, TEST, split_classes

SEED = 0


def unlike_pinned(checksums: Path, folder: Path) -> list[str]:
    """Names of the files that `checksums` lists, as sha256sum does, and that `folder` lacks or has with other contents."""
    pinned = [line.split() for line in checksums.read_text().splitlines()]
    return [
        name
        for digest, name in pinned
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest
    ]


def quantize(features: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Scale by one factor for all and round to int8; readers normalize each row, so the factor is not kept."""
    return np.rint(features * (127 / np.abs(features).max())).astype(np.int8)


def assemble(
    cells: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    class_groups: npt.NDArray[np.int64],
    group_names: tuple[str, ...],
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Split the classes, fit the embedding on its own share and embed the rest.

    Args:
        cells: float32 [N, C], what the embedding starts from.
        labels: int64 [N], in [0, K).
        class_groups: int64 [K], positions in `group_names`.
        group_names: one for each group.

    Returns:
        The arrays `features`, `labels`, `groups`, `test` and `group_names` of the file; which samples these are, bool [N]; and which
        class stands behind each new label.
    """
    split = split_classes(class_groups, SEED)[labels]
    fitted, kept = split == EMBEDDING, split != EMBEDDING
    features = fit(cells[fitted], labels[fitted])(cells[kept])
    classes, new_labels = np.unique(labels[kept], return_inverse=True)
    arrays = {
        "features": quantize(features),
        "labels": new_labels.astype(np.int16),
        "groups": class_groups[labels[kept]].astype(np.int8),
        "test": split[kept] == TEST,
        "group_names": np.array(group_names),
    }
    return arrays, kept, classes
