"""What an op costs at least: operations, bytes and the time that a device needs for them. A prediction, never a measured speed.

Nothing here needs torch. The benchmarks count with the same formulas.
"""

import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from intraformer_fast.gpus import GPUS

ITEM_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}


class Work(NamedTuple):
    """The least that a step has to do: bytes read and written, floating-point operations."""

    bytes: int
    flops: int = 0

    def plus(self, other: "Work") -> "Work":
        """Both."""
        return Work(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, count: int) -> "Work":
        """The same so often."""
        return Work(count * self.bytes, count * self.flops)


# ---- The ops ----


def runs(n: int, num_blocks: int) -> list[int]:
    """The lengths of the sub-clusters, by `numpy.array_split`'s rule."""
    return [n // num_blocks + (i < n % num_blocks) for i in range(num_blocks)]


def block_attention(
    batch: int, heads: int, n: int, width: int, num_blocks: int = 1, *, item_bytes: int = 4, backward: bool = False
) -> Work:
    """Of `functional.block_attention` on [batch, heads, n, width]: Q, K, V read and O written, two products a pair of tokens; the
    gradients read Q, K, V, dO, write three of them, and take five products, P being made anew.
    """
    numbers = batch * heads * n * width
    products = batch * heads * sum(length**2 for length in runs(n, num_blocks)) * width
    return Work((4 + 7 * backward) * numbers * item_bytes, (4 + 10 * backward) * products)


def gather_block_attention(
    batch: int, heads: int, n: int, width: int, num_blocks: int = 1, *, samples: int, item_bytes: int = 4
) -> Work:
    """Of `functional.gather_block_attention`: three tables of `samples` rows read once, int64 neighbours read, O written."""
    flops = block_attention(batch, heads, n, width, num_blocks).flops
    return Work((3 * samples + batch * n) * heads * width * item_bytes + 8 * batch * n, flops)


def correlation_attention(
    batch: int, queries: int, context: int, width: int, *, weights: int = 1, item_bytes: int = 4, backward: bool = False
) -> Work:
    """Of C-ATT of [batch, queries, width] over [batch, context, width], with `weights` correlation matrices: the product with W
    and two more; the gradients read the inputs and the gradient, write those of the inputs, and take three times the work.
    """
    read = (batch * (queries + context) * width + weights * width**2) * item_bytes
    written = batch * queries * width * item_bytes
    project, product = 2 * batch * queries * width**2, 2 * batch * queries * context * width
    forward = Work(read + written, project + 2 * product)
    return Work(2 * (read + written) + read, 3 * project + 6 * product) if backward else forward


def purity_fmi(
    batch: int, n: int, *, item_bytes: int = 4, target_bytes: int = 1, masked: bool = False, backward: bool = False
) -> Work:
    """Of `functional.purity_fmi` on [batch, n]: predictions and targets read, loss and purity written; the gradients read them all
    again with those of loss and purity, and write one number a prediction.
    """
    read = batch * n * (item_bytes + target_bytes + masked)
    a_row = batch * 2 * 4
    return Work(read + a_row + ((read + a_row + batch * n * item_bytes) if backward else 0))


def encoder_layer(
    batch: int, n: int, width: int, *, ffn_dim: int | None = None, num_blocks: int = 1, item_bytes: int = 4
) -> Work:
    """Of a Transformer's encoder layer on [batch, n, width]: tokens in and out once, its weights once, all products."""
    ffn_dim = 4 * width if ffn_dim is None else ffn_dim
    weights = 4 * width**2 + 2 * width * ffn_dim
    attention = 4 * batch * sum(length**2 for length in runs(n, num_blocks)) * width
    return Work((2 * batch * n * width + weights) * item_bytes, 2 * batch * n * weights + attention)


def intraformer(
    batch: int,
    n: int = 256,
    width: int = 512,
    *,
    num_subclusters: int = 4,
    num_layers: int = 6,
    ffn_dim: int | None = None,
    item_bytes: int = 4,
) -> Work:
    """Of `nn.Intraformer` in inference: each block reads and writes its tokens and reads the weights of its k streams."""
    lengths = runs(n, num_subclusters)
    block = Work(0)
    for m, length in enumerate(lengths):
        block = block.plus(encoder_layer(batch, length, width, ffn_dim=ffn_dim, item_bytes=item_bytes))
        if m > 0:
            cross = correlation_attention(batch, length, lengths[0], width, item_bytes=item_bytes)
            # Its tokens are on the chip already; its matrix and the anchor are not.
            block = block.plus(Work((width**2 + batch * lengths[0] * width) * item_bytes, cross.flops))
    return block.times(num_layers)


def knn_graph(samples: int, n: int, width: int, *, item_bytes: int = 4) -> Work:
    """Of an exact search of `n` neighbours: every sample by every sample, the features read once, ids and similarities written."""
    return Work(samples * width * item_bytes + samples * n * 12, 2 * samples**2 * width)


OPS: dict[str, Callable[..., Work]] = {
    "block_attention": block_attention,
    "gather_block_attention": gather_block_attention,
    "correlation_attention": correlation_attention,
    "purity_fmi": purity_fmi,
    "encoder_layer": encoder_layer,
    "intraformer": intraformer,
    "knn_graph": knn_graph,
}


# ---- The devices ----


@dataclass(frozen=True)
class Device:
    """What a device can do at best: floating-point operations a second by precision, bytes a second from and to its memory."""

    name: str
    peaks: Mapping[str, float]
    bandwidth: float


def this_cpu() -> Device:
    """The processor here, from what Linux says of it: each core multiplies and adds in two vectors a cycle at the clock shown.

    The bandwidth is assumed: 10 GB/s a core, as servers have it; pass a `Device` of your own where you know better.
    """
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    clocks = [float(mhz) * 1e6 for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)]
    lanes = 16 if " avx512f" in text else 8 if " avx2" in text else 4
    fp32 = cores * (clocks[0] if clocks else 2.5e9) * 2 * 2 * lanes
    bf16 = fp32 * (2 if " avx512_bf16" in text else 1)
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return Device(
        f"{name[1] if name else platform.machine()}, {cores} cores", {"fp32": fp32, "bf16": bf16}, 10e9 * cores
    )


def device_of(device: str | Device) -> Device:
    """The device of a name: "cpu" is the processor here, "A100", "H100" and "B200" those of `gpus.GPUS`.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(device, Device):
        return device
    if device == "cpu":
        return this_cpu()
    for gpu in GPUS:
        if device.lower() in (gpu.name.lower(), gpu.name.partition("-")[0].lower()):
            return Device(gpu.name, gpu.peaks, gpu.bandwidth)
    known = ", ".join(repr(gpu.name.partition("-")[0]) for gpu in GPUS)
    raise ValueError(f"device = {device!r}: expected 'cpu', {known} or a Device")


# ---- The estimate ----


@dataclass(frozen=True)
class Estimate:
    """The least time of some work: the longer of operations at the peak and bytes at the bandwidth; `binding` says which."""

    op: str
    device: str
    precision: str
    flops: int
    bytes: int
    seconds: float
    binding: str

    def __str__(self) -> str:
        return (
            f"{self.op} on {self.device}, {self.precision}: {self.flops:.3g} FLOP, {self.bytes:.3g} bytes, "
            f"at least {self.seconds:.3g} s (predicted; bound by {self.binding})"
        )


def estimate(
    op: str, shape: Mapping[str, Any], device: str | Device = "cpu", *, precision: str | None = None
) -> Estimate:
    """FLOPs, least bytes and the bound on time of one op.

    Args:
        op: one of `OPS`.
        shape: the arguments of the function of that name in this module, such as {"batch": 64, "heads": 4, "n": 256, "width": 128}.
        device: "cpu", the processor here; "A100", "H100", "B200"; or a `Device`.
        precision: of the products and the tensors, "fp32", "tf32" or "bf16". None: "bf16" on a GPU, "fp32" on a CPU.

    Raises:
        ValueError: there is no such op, device or precision on it. TypeError: `shape` has not what the op needs.
    """
    if op not in OPS:
        raise ValueError(f"op = {op!r}: expected one of {', '.join(map(repr, sorted(OPS)))}")
    found = device_of(device)
    precision = precision or ("fp32" if device == "cpu" else "bf16")
    if precision not in found.peaks:
        raise ValueError(
            f"precision = {precision!r}: expected one of {', '.join(map(repr, found.peaks))} on {found.name}"
        )
    try:
        work = OPS[op](**{"item_bytes": ITEM_BYTES[precision], **shape})
    except TypeError as error:
        raise TypeError(f"shape {dict(shape)} of {op}: {error}") from None
    return _bound(op, work, found, precision)


def estimate_pipeline(
    samples: int,
    device: str | Device = "cpu",
    *,
    precision: str | None = None,
    n: int = 256,
    width: int = 512,
    num_subclusters: int = 4,
    num_layers: int = 6,
) -> list[Estimate]:
    """The stages of clustering `samples` features that take the time, and "all", one after the other: the exact graph of neighbours,
    and the model over every sample's cluster. Defaults are the paper's. Arguments and errors as in `estimate`.
    """
    model = {"n": n, "width": width, "num_subclusters": num_subclusters, "num_layers": num_layers, "batch": samples}
    graph = estimate("knn_graph", {"samples": samples, "n": n, "width": width}, device, precision=precision)
    stages = [graph, estimate("intraformer", model, device, precision=precision)]
    seconds = sum(stage.seconds for stage in stages)
    binding = max(stages, key=lambda stage: stage.seconds).op
    flops, moved = sum(stage.flops for stage in stages), sum(stage.bytes for stage in stages)
    return [*stages, Estimate("all", graph.device, graph.precision, flops, moved, seconds, binding)]


def _bound(op: str, work: Work, device: Device, precision: str) -> Estimate:
    arithmetic, memory = work.flops / device.peaks[precision], work.bytes / device.bandwidth
    binding = "operations" if arithmetic > memory else "memory"
    return Estimate(op, device.name, precision, work.flops, work.bytes, max(arithmetic, memory), binding)
