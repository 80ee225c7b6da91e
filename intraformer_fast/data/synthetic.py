"""Made-up identities on the hypersphere, of any number, to try a pipeline's scale on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from intraformer_fast.files import atomic_path

from .dataset import Dataset

BLOCK = 2**14
"""Samples made together. A part of the recipe: another number gives other features."""

MEAN_SIZE = 69
"""Samples of an identity: 485,000 of 7,000, as in each part of BUPT-In-the-wild that the paper trains and tests on."""

SIZE_SPREAD = 0.6
"""Standard deviation of the logarithm of an identity's size: most have between a third and three times the mean."""

GROUPS = (0.55, 0.25, 0.12, 0.08)
"""Shares of the identities. Uneven on purpose, since even groups hide what fairness measures are for."""

ALIKE = (0.1, 0.45)
"""The cosine of the identities of one group, of the largest and of the smallest: those who are few look more alike to a network
that saw few of them."""


def synthetic(
    samples: int,
    *,
    dim: int = 64,
    mean_size: float = MEAN_SIZE,
    groups: tuple[float, ...] = GROUPS,
    noise: float = 0.8,
    dtype: npt.DTypeLike = np.float32,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Samples of identities of log-normal sizes in groups of unequal share, in random order; the same for equal arguments.

    With unit vectors u_g of the group, u_c of the identity and a standard normal vector e, a sample is the direction of

        sqrt(a_g) u_g + sqrt(1 - a_g) u_c + noise e / sqrt(dim)

    with a_g from `ALIKE`: two samples of an identity have a cosine near 1 / (1 + noise^2).

    Args:
        samples: N, at least 1.
        dim: d, at least 2.
        mean_size: samples of an identity, at least 1.
        groups: shares of the identities, positive; they are scaled to sum to 1.
        noise: length of what tells samples of an identity apart, not negative.
        dtype: float32 or float16.
        seed: not negative.
        folder: where features.npy, labels.npy and groups.npy are written, a block at a time, each in one piece. The result is
            then memory-mapped, and memory holds some 25 bytes a sample and the identities, never the features. None keeps all
            in memory.

    Raises:
        ValueError: an argument is out of range.
        OSError: the folder cannot be written; nothing is half-written.
    """
    if samples < 1 or dim < 2 or mean_size < 1 or noise < 0 or seed < 0:
        raise ValueError(
            f"samples = {samples}, dim = {dim}, mean_size = {mean_size}, noise = {noise}, seed = {seed}: expected samples and "
            "mean_size of at least 1, dim of at least 2, noise and seed not negative"
        )
    if not groups or min(groups) <= 0:
        raise ValueError(f"groups = {groups}: expected at least one positive share")
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise ValueError(f"dtype = {kind}: expected float32 or float16")

    rng = np.random.default_rng(seed)
    sizes = _sizes(samples, mean_size, rng)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    shares = np.asarray(groups) / sum(groups)
    group_of = rng.choice(len(groups), len(sizes), p=shares)
    centers = _centers(group_of, shares, dim, rng)
    names = tuple(f"group {i}" for i in range(len(groups)))

    def blocks() -> Iterator[npt.NDArray[np.floating]]:
        for i, start in enumerate(range(0, samples, BLOCK)):
            center = centers[labels[start : start + BLOCK]]
            offset = np.random.default_rng([seed, i]).standard_normal(center.shape, dtype=np.float32)
            center += np.float32(noise / np.sqrt(dim)) * offset
            center /= np.linalg.norm(center, axis=1, keepdims=True)
            yield center.astype(kind, copy=False)

    if folder is None:
        return Dataset("synthetic", np.concatenate(list(blocks())), labels, group_of[labels], names)
    folder = Path(folder)
    with atomic_path(folder / "features.npy") as temporary, open(temporary, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (samples, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks():
            file.write(block.data)
    for name, array in (("labels", labels), ("groups", group_of[labels])):
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, array)
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("features", "labels", "groups")}
    return Dataset("synthetic", **mapped, group_names=names)


def _sizes(samples: int, mean_size: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Samples of each identity, at least 1, which sum to `samples`."""
    count = max(1, round(samples / mean_size))
    drawn = rng.lognormal(0, SIZE_SPREAD, count)
    # The first of every identity is given; the others go by the fractions of the running sum, which loses none to rounding.
    ends = np.floor(np.cumsum(drawn) / drawn.sum() * (samples - count) + 0.5).astype(np.int64)
    ends[-1] = samples - count
    return 1 + np.diff(ends, prepend=0)


def _centers(
    group_of: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], dim: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    rarity = np.empty(len(shares))
    rarity[np.argsort(-shares, kind="stable")] = np.linspace(0, 1, len(shares))
    alike = (ALIKE[0] + (ALIKE[1] - ALIKE[0]) * rarity).astype(np.float32)[group_of, None]
    directions = _unit(rng.standard_normal((len(shares), dim), dtype=np.float32))
    own = _unit(rng.standard_normal((len(group_of), dim), dtype=np.float32))
    return (np.sqrt(alike) * directions[group_of] + np.sqrt(1 - alike) * own).astype(np.float32, copy=False)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
