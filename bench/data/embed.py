"""An embedding of 32 x 32 pictures in numpy alone: oriented-gradient cells, PCA, LDA fitted on classes of its own.

The cells follow Dalal and Triggs (2005), the square root Arandjelovic and Zisserman (2012), the weights of the LDA axes
(w / (1 + w) for a ratio w of variance between to variance within) the shrinkage of probabilistic LDA.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

BINS = 8  # gradient directions over the full circle
BLOCK = 2000  # pictures worked on at once
PCA_WIDTH = 300
WIDTH = 128
RIDGE = 1e-3  # added to the within-class variance, as a share of its mean


def _cells(pictures: npt.NDArray[np.uint8], cell: int) -> Array:
    gray = pictures.astype(np.float32) / 255
    padded = np.pad(gray, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    blurred = (around + 4 * gray) / 8
    dy, dx = np.gradient(blurred, axis=(1, 2))
    strength = np.hypot(dx, dy)
    direction = (np.arctan2(dy, dx) / (2 * np.pi) * BINS) % BINS
    # A gradient between two directions counts to both, in proportion.
    apart = np.abs(direction[..., None] - np.arange(BINS, dtype=np.float32))
    share = np.maximum(0, 1 - np.minimum(apart, BINS - apart))
    side = pictures.shape[1] // cell
    cells = (strength[..., None] * share).reshape(-1, side, cell, side, cell, BINS).sum((2, 4))
    blocks = cells[:, :-1, :-1] + cells[:, 1:, :-1] + cells[:, :-1, 1:] + cells[:, 1:, 1:]
    flat = blocks.reshape(len(pictures), -1)
    return np.sqrt(flat / (flat.sum(1, keepdims=True) + 1e-6))


def gradient_cells(pictures: npt.NDArray[np.uint8], cell: int = 4) -> Array:
    """Square roots of normalized histograms of gradient directions, over overlapping blocks of 2 x 2 cells.

    Args:
        pictures: uint8 [N, S, S].
        cell: side of a cell in pixels, a divisor of S.

    Returns:
        float32 [N, (S / cell - 1)^2 * BINS].
    """
    return np.concatenate([_cells(pictures[i : i + BLOCK], cell) for i in range(0, len(pictures), BLOCK)])


@dataclass(frozen=True)
class Embedding:
    """An affine map to the discriminant axes, followed by L2 normalization."""

    mean: Array
    axes: npt.NDArray[np.float64]

    def __call__(self, cells: Array) -> Array:
        """Map cells [N, C] to float32 features [N, width] of length 1."""
        features = (cells - self.mean) @ self.axes
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def fit(cells: Array, labels: npt.NDArray[np.int64], pca_width: int = PCA_WIDTH, width: int = WIDTH) -> Embedding:
    """Fit PCA and then LDA on cells [N, C] with labels [N]."""
    _, labels = np.unique(labels, return_inverse=True)
    mean = cells.mean(0)
    centered = (cells - mean).astype(np.float64)
    _, directions = np.linalg.eigh(centered.T @ centered / len(centered))
    pca = directions[:, ::-1][:, :pca_width]
    projected = centered @ pca

    counts = np.bincount(labels)
    centers = np.zeros((len(counts), projected.shape[1]))
    np.add.at(centers, labels, projected)
    centers /= counts[:, None]
    residual = projected - centers[labels]
    within = residual.T @ residual / len(residual)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    variance, directions = np.linalg.eigh(within)
    whiten = directions / np.sqrt(variance)

    whitened = centers @ whiten
    ratio, directions = np.linalg.eigh(whitened.T @ whitened / len(whitened))
    ratio, directions = np.maximum(ratio[::-1][:width], 0), directions[:, ::-1][:, :width]
    return Embedding(mean, pca @ whiten @ (directions * np.sqrt(ratio / (1 + ratio))))
