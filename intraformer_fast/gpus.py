"""What the vendor publishes of the GPUs that the bounds are for."""

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Gpu:
    """Rates are of the whole GPU a second, and of one multiprocessor (SM) a clock cycle.

    Attributes:
        name: with memory and form, which decide the rates.
        capability: 80, 90 or 100.
        multiprocessors: their number.
        clock: Hz, the one that the peaks below are quoted for.
        bandwidth: of the device's memory, bytes a second.
        peaks: floating-point operations a second, without sparsity: "bf16" (fp16 as well) and "tf32" of the tensor cores, "fp32".
        float_lanes, integer_lanes, special_lanes: results a cycle of float32 arithmetic; of integer arithmetic, comparison and
            logic; of exp2, reciprocal and the like.
        shuffle_lanes: results a cycle of warp shuffles.
        shared_bandwidth: bytes a cycle of shared memory, and of the first-level cache.
        shared_bytes: of an SM; each program takes RESERVED bytes more than it asks for.
        registers: of an SM, 32 bits each.
        warps: an SM can hold.
        programs: an SM can hold.
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float
    peaks: dict[str, float]
    float_lanes: int
    integer_lanes: int
    special_lanes: int
    shuffle_lanes: int
    shared_bandwidth: int
    shared_bytes: int
    registers: int
    warps: int
    programs: int

    def matrix_flops(self, precision: str) -> float:
        """Of the tensor cores of one SM, a cycle."""
        return self.peaks[precision] / (self.multiprocessors * self.clock)


RESERVED = 1 * KIB
"""Bytes of shared memory that the driver keeps of each program."""

SHARED_LIMIT = {80: 163 * KIB, 90: 227 * KIB, 100: 227 * KIB}
"""Bytes of shared memory that one program can have, by capability."""

# Peaks, SMs, clock and bandwidth: the NVIDIA A100 80GB data sheet and the A100 whitepaper (108 SMs at 1,410 MHz, 2,039 GB/s, 312
# TFLOP/s bf16 and 156 TF32); the H100 whitepaper and the H100 SXM data sheet (132 SMs at 1,830 MHz, 3.35 TB/s, 989.4 and 494.7);
# the HGX B200 data sheet and the Blackwell technical brief (2.25 PFLOP/s bf16 and half of it TF32, "up to" 8 TB/s), where the clock
# is what 148 SMs need for that at 8,192 operations a cycle.
# Results a cycle: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", columns 8.0, 9.0 and 10.0. Sizes of an
# SM: the same, "Technical Specifications per Compute Capability", and NVIDIA's arch_traits.cuh.
GPUS = (
    Gpu(
        name="A100-SXM4-80GB",
        capability=80,
        multiprocessors=108,
        clock=1.41e9,
        bandwidth=2.039e12,
        peaks={"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
        float_lanes=64,
        integer_lanes=64,
        special_lanes=16,
        shuffle_lanes=32,
        shared_bandwidth=128,
        shared_bytes=164 * KIB,
        registers=65536,
        warps=64,
        programs=32,
    ),
    Gpu(
        name="H100-SXM5-80GB",
        capability=90,
        multiprocessors=132,
        clock=1.83e9,
        bandwidth=3.35e12,
        peaks={"bf16": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12},
        float_lanes=128,
        integer_lanes=64,
        special_lanes=16,
        shuffle_lanes=32,
        shared_bandwidth=128,
        shared_bytes=228 * KIB,
        registers=65536,
        warps=64,
        programs=32,
    ),
    Gpu(
        name="B200-SXM6-180GB",
        capability=100,
        multiprocessors=148,
        clock=1.856e9,
        bandwidth=8e12,
        peaks={"bf16": 2.25e15, "tf32": 1.125e15, "fp32": 75e12},
        float_lanes=128,
        integer_lanes=64,
        special_lanes=16,
        shuffle_lanes=32,
        shared_bandwidth=128,
        shared_bytes=228 * KIB,
        registers=65536,
        warps=64,
        programs=32,
    ),
)


def gpu(capability: int) -> Gpu:
    """The one of this capability.

    Raises:
        ValueError: there is none.
    """
    for found in GPUS:
        if found.capability == capability:
            return found
    raise ValueError(f"no GPU of capability {capability}: expected one of {[one.capability for one in GPUS]}")
