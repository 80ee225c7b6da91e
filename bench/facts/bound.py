"""How near to the roofline a compiled kernel could come: a static bound, never an achieved speed.

The time that the busiest part of the GPU needs at its published rate, if everything else overlapped perfectly. What is left out only
makes the bound kinder: latencies, bank conflicts, cache misses, the operands that wgmma reads, instructions whose rate is not
published beyond their issue. So a kernel can be much slower than its bound, but not faster, as long as the branches that skip
something (masked loads of a whole tile) do not.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from intraformer_fast.gpus import RESERVED, Gpu

from .compiled import WARP_WIDE, Compiled, warp_flops
from .sass import Instruction

WARP = 32
SCHEDULERS = 4
"""Of an SM; each issues one warp instruction a cycle."""

FLOAT = frozenset({"FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2", "IMAD"})
INTEGER = frozenset(
    {
        "IADD3", "LOP3", "LEA", "SEL", "FSEL", "ISETP", "FSETP", "FMNMX", "FMNMX3", "IMNMX", "VIMNMX", "VIADD", "SHF",
        "PRMT", "F2FP", "IABS", "SGXT", "BMSK",
    }
)  # fmt: skip
SPECIAL = frozenset({"MUFU"})
SHUFFLE = frozenset({"SHFL"})
SHARED = frozenset({"LDS", "STS", "LDSM", "STSM", "LDGSTS"})
GLOBAL = frozenset({"LDG", "STG", "LDGSTS", "LDL", "STL"})


@dataclass(frozen=True)
class KernelTime:
    """Of one launch, without the device's memory.

    Attributes:
        cycles: of one program alone on an SM, by part; the parts work side by side.
        part: the busiest of them.
        seconds: that it takes on the SM with the most programs.
        programs_per_multiprocessor: that fit at a time.
        limiter: what keeps it from being more: "registers", "shared memory", "warps" or "programs".
    """

    cycles: dict[str, float]
    part: str
    seconds: float
    programs_per_multiprocessor: int
    limiter: str


@dataclass(frozen=True)
class Bound:
    """Of an op: its launches one after the other.

    Attributes:
        gpu: its name.
        roofline: seconds of the least work at the GPU's peaks.
        seconds: that the compiled kernels take at least.
        binding: what takes them: "memory", a part of the SMs, or "useful operations" where those at the peak take longer than both.
        on_chip_share: the time of the busiest parts over the bound's: what is left to 1 may hide latencies and conflicts.
    """

    gpu: str
    roofline: float
    seconds: float
    binding: str
    on_chip_share: float

    @property
    def of_roofline(self) -> float:
        """At most 1: the roofline's time over the bound's."""
        return self.roofline / self.seconds


def bound(kernels: Sequence[KernelTime], gpu: Gpu, least_bytes: int, useful_flops: int, precision: str) -> Bound:
    """The static bound of an op.

    Args:
        kernels: that it launches, from `kernel_time`.
        gpu: that they are for.
        least_bytes: that any kernel has to read from and write to the device's memory.
        useful_flops: floating-point operations that any kernel has to do.
        precision: whose peak the roofline has: "bf16", "tf32" or "fp32".
    """
    memory = least_bytes / gpu.bandwidth
    roofline = max(useful_flops / gpu.peaks[precision], memory)
    busy = sum(kernel.seconds for kernel in kernels)
    seconds = max(busy, roofline)
    part = max(kernels, key=lambda kernel: kernel.seconds).part
    binding = part if busy == seconds else "memory" if memory == seconds else "useful operations"
    return Bound(gpu.name, roofline, seconds, binding, busy / seconds)


def kernel_time(compiled: Compiled, gpu: Gpu, programs: int, trips: Sequence[int] = ()) -> KernelTime:
    """What the SMs need for one launch.

    Args:
        compiled: for the capability of `gpu`.
        gpu: see `gpus.GPUS`.
        programs: of the launch.
        trips: see `sass.Code.executions`.

    Raises:
        ValueError: compiled for another capability, not one number for each loop, or no program fits on an SM.
    """
    if compiled.capability != gpu.capability:
        raise ValueError(f"{compiled.name} is compiled for {compiled.capability}: {gpu.name} needs {gpu.capability}")
    warp: dict[str, float] = defaultdict(float)
    for instruction, times in zip(compiled.code.instructions, compiled.code.executions(trips), strict=True):
        if times:
            for part, busy in cost(instruction, gpu).items():
                warp[part] += times * busy
    cycles = {part: total * compiled.num_warps for part, total in warp.items()}
    if whole := compiled.tcgen05_flops(trips):
        precision = "tf32" if "kind::tf32" in compiled.ptx else "bf16"
        cycles["tensor cores"] = cycles.get("tensor cores", 0.0) + whole / gpu.matrix_flops(precision)
    busiest = max(cycles, key=lambda part: cycles[part])
    rounds = math.ceil(programs / gpu.multiprocessors)  # of the SM with the most
    return KernelTime(cycles, busiest, rounds * cycles[busiest] / gpu.clock, *residency(compiled, gpu))


def cost(instruction: Instruction, gpu: Gpu) -> dict[str, float]:
    """Cycles that an SM is kept busy by one warp's instruction, by part. Of tcgen05, a program's, the issue alone."""
    name = instruction.name
    parts = {"issue": 1 / SCHEDULERS}
    if name in WARP_WIDE:
        precision = "tf32" if "TF32" in instruction.opcode else "bf16"
        parts["tensor cores"] = warp_flops(instruction.opcode) / gpu.matrix_flops(precision)
    elif name in FLOAT:
        parts["float"] = WARP / gpu.float_lanes
        if name == "IMAD":  # takes turns with float32, but where there are more lanes of that, only on some of them
            parts["integer multiply"] = WARP / gpu.integer_lanes
    elif name in INTEGER:
        parts["integer"] = WARP / gpu.integer_lanes
    elif name in SPECIAL:
        parts["special functions"] = WARP / gpu.special_lanes
    elif name in SHUFFLE:
        parts["shuffles"] = WARP / gpu.shuffle_lanes
    traffic = WARP * bytes_per_thread(instruction) / gpu.shared_bandwidth
    if name in SHARED:
        parts["shared memory"] = traffic
    if name in GLOBAL:
        parts["first-level cache"] = traffic
    return parts


def bytes_per_thread(instruction: Instruction) -> int:
    """That an access of memory moves; LDSM.16.M88.4 moves 16."""
    if instruction.name in ("LDSM", "STSM"):
        last = instruction.opcode.rpartition(".")[2]
        return 4 * (int(last) if last in ("2", "4") else 1)
    return instruction.width


def residency(compiled: Compiled, gpu: Gpu) -> tuple[int, str]:
    """How many programs fit on an SM at a time, and what limits them.

    Registers are given to a warp in units of 256, and a warp stays with one of the four schedulers (CUDA Occupancy Calculator).

    Raises:
        ValueError: not even one fits.
    """
    a_warp = -(-compiled.registers * WARP // 256) * 256
    fits = {
        "registers": gpu.registers // SCHEDULERS // a_warp * SCHEDULERS // compiled.num_warps,
        "shared memory": gpu.shared_bytes // (compiled.shared_bytes + RESERVED),
        "warps": gpu.warps // compiled.num_warps,
        "programs": gpu.programs,
    }
    limiter = min(fits, key=lambda name: fits[name])
    if fits[limiter] < 1:
        raise ValueError(f"{compiled.name} does not fit on {gpu.name}: too much of {limiter} for one program")
    return fits[limiter], limiter
