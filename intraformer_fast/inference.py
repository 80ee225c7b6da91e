"""Predicted probabilities of whole data sets, in bounded memory."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from intraformer_fast import nn
from intraformer_fast.clusters import Array, Clusters
from intraformer_fast.errors import DataError
from intraformer_fast.files import atomic_path
from intraformer_fast.precision import INFERENCE_PRECISIONS, evaluating, resolve_precision


def predict_probability(
    model: nn.Intraformer,
    features: Array,
    neighbors: Array,
    *,
    batch_size: int = 256,
    precision: str = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> npt.NDArray[np.float32]:
    """Probability q that each neighbour has its centroid's identity: the sigmoid of the model's logits.

    Memory beyond the result is that of one batch: `features` and `neighbors` may be memory-mapped, and with `out` the
    result goes to a file as it is made. The result does not depend on `batch_size` beyond rounding.

    Args:
        model: used in evaluation mode, and left in the mode it was in.
        features: [N, d], floating point, L2-normalised.
        neighbors: int[M, n] rows of `features`, each row's centroid first; -1 is padding. All rows of a neighbour table,
            or any of them.
        batch_size: clusters at once, at most. 256 by default: a few GiB with the "paper" preset, less with "small".
        precision: "fp32", "bf16" (autocast), "int8" (`nn.Intraformer.compute`, on the CPU alone), or "auto", the default: int8
            where the model's `compute` says so, else bf16 where the device is fast at it, else fp32.
        out: a .npy file to write the result to; it appears when it is complete. None keeps the result in memory.
        progress: whether a bar with the time left is drawn on stderr.

    Returns:
        float32 [M, n]; 0 at padding. The centroid's own column holds the model's answer as any other does, no constant.
        With `out` it is the file, memory-mapped read-only.

    Raises:
        ValueError: a shape or an option is wrong. TypeError: a dtype is.
        DataError: a feature or an answer of the model is not finite, or an id is no row of `features`.
        NotImplementedError: int8 cannot be served; the message says why.
        OSError: `out` cannot be written; what stood there before is untouched.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: expected at least 1")
    clusters = Clusters(model, features, neighbors)
    precision = inference_precision(model, clusters.device, precision)
    size, n = clusters.neighbors.shape
    with contextlib.ExitStack() as stack:
        file = None if out is None else stack.enter_context(_npy_file(out, (size, n)))
        result = np.empty((size if file is None else 0, n), np.float32)
        stack.enter_context(evaluating(model))
        stack.enter_context(computing(model, precision))
        bar = stack.enter_context(tqdm(total=size, desc="predicting", unit="cluster", disable=not progress))
        for start in range(0, size, batch_size):
            stop = min(size, start + batch_size)
            logits, valid = clusters.logits(model, slice(start, stop), precision)
            probability = logits.sigmoid() if valid is None else logits.sigmoid().masked_fill(~valid, 0.0)
            block = finite_probability(probability, range(start, stop))
            if file is None:
                result[start:stop] = block
            else:
                file.write(block.data)
            bar.update(stop - start)
    return result if out is None else np.load(out, mmap_mode="r", allow_pickle=False)


def finite_probability(probability: Tensor, clusters: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A batch of answers [B, n] as float32 in the host's memory; `clusters` are their numbers, for the message.

    Raises:
        DataError: one is not finite.
    """
    block = probability.float().cpu().numpy()
    finite = np.isfinite(block).all(1)
    if not finite.all():
        raise DataError(
            f"the model's answer for cluster {clusters[int(finite.argmin())]} is not finite: "
            "its weights are damaged or too large, train it again"
        )
    return block


def inference_precision(model: nn.Intraformer, device: torch.device, precision: str) -> str:
    """The precision itself, or what "auto" means for this model; errors as `resolve_precision`."""
    if precision == "auto" and model.compute == "int8":
        return "int8"
    return resolve_precision(precision, device, INFERENCE_PRECISIONS)


@contextlib.contextmanager
def computing(model: nn.Intraformer, precision: str) -> Iterator[None]:
    """The model computes in int8 inside the block where that is the precision, and as before afterwards."""
    before = model.compute
    model.compute = "int8" if precision == "int8" else "float"
    try:
        yield
    finally:
        model.compute = before


@contextlib.contextmanager
def _npy_file(path: str | os.PathLike[str], shape: tuple[int, int]) -> Iterator[IO[bytes]]:
    # Written front to back, not through a memory map: on a full disk a map kills the process, a write raises.
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
            np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
            yield file
    except OSError as error:
        raise OSError(error.errno, f"cannot write {os.fspath(path)}: {error.strerror or error}") from error
