"""The facts of a case as rows: what was compiled for each GPU with its bound, and what was executed on the CPU."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.gpus import GPUS, SHARED_LIMIT

from .. import parity
from ..run import FAILED, PASSED
from . import ptx
from .bound import bound, kernel_time
from .cases import Facts, FactsCase
from .compiled import Launch, compile_launch
from .execute import execute

CAPABILITIES = (80, 90, 100)


@dataclass(frozen=True)
class CompiledRow:
    """What one kernel of a case compiles to for one GPU, and the bound of the case. Nothing of it was run.

    Attributes:
        benchmark, case: names.
        capability: of the GPU, 80, 90 or 100.
        launch: which of the case's, from 0; `kernel` its name.
        programs, num_warps: of the launch.
        registers: a thread.
        stack_bytes, spill_store_bytes, spill_load_bytes: a thread.
        shared_bytes: a program; `shared_limit` is what it can have.
        tensor_core: instructions, such as "128 HMMA.16816.F32.BF16".
        gpu: that the bound is of; empty where there is none.
        programs_per_multiprocessor, limiter: how many fit at a time, and what limits them.
        on_chip: the busiest part of the multiprocessors, and `on_chip_seconds` what it takes at least.
        least_bytes, useful_flops: of the case, by any kernels.
        issued_flops: of the tensor cores in all launches of the case; None where it is not known (a loop, for 100).
        roofline, bound: seconds of the case; see `bound.Bound`.
        of_roofline: at most 1.
        binding: what takes the bound's time.
        on_chip_share: of that time the busiest parts take, in all launches.
    """

    benchmark: str
    case: str
    capability: int
    launch: int
    kernel: str
    programs: int
    num_warps: int
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int
    shared_limit: int
    tensor_core: str
    least_bytes: int
    useful_flops: int
    issued_flops: int | None
    gpu: str = ""
    programs_per_multiprocessor: int | None = None
    limiter: str = ""
    on_chip: str = ""
    on_chip_seconds: float | None = None
    roofline: float | None = None
    bound: float | None = None
    of_roofline: float | None = None
    binding: str = ""
    on_chip_share: float | None = None


@dataclass(frozen=True)
class ExecutedRow:
    """What the PTX for capability 80 asked for when it was executed on the CPU at a small size.

    Attributes:
        benchmark, case: names; `kernel` those of all launches.
        programs: executed, of all launches.
        least_sectors: of 32 bytes, by any kernels.
        useful_flops: of any kernels.
        parity: "passed" or "FAILED"; `detail` in words, `error_ratio` as `parity.Verdict` has it.
        load_sectors, store_sectors: that the warps asked for.
        issued_flops: of the matrix instructions.
        wavefronts, bank_conflicts: of shared memory; see `ptx.Counts`.
    """

    benchmark: str
    case: str
    kernel: str
    programs: int
    least_sectors: int
    useful_flops: int
    parity: str = ""
    detail: str = ""
    error_ratio: float | None = None
    load_sectors: int | None = None
    store_sectors: int | None = None
    issued_flops: int | None = None
    wavefronts: int | None = None
    bank_conflicts: int | None = None


Row = CompiledRow | ExecutedRow


def facts(chosen: Sequence[Facts], seed: int, all_cases: bool, say: Callable[[str], None]) -> list[Row]:
    """The rows of all cases, in their order.

    Args:
        chosen: what is looked at.
        seed: of the small inputs.
        all_cases: or the first of each.
        say: is told what comes next.

    Raises:
        MissingDependencyError: Triton is not installed.
    """
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("triton", "triton", "Looking at compiled kernels") from error
    found: list[Row] = []
    for one in chosen:
        for case in one.cases if all_cases else one.cases[:1]:
            say(f"{one.name}: {case.label}")
            found += compiled_rows(one.name, case)
            found.append(executed_row(one.name, case, torch.Generator().manual_seed(seed)))
    return found


def compiled_rows(benchmark: str, case: FactsCase) -> Iterator[CompiledRow]:
    """One for each of CAPABILITIES and each launch."""
    for capability in CAPABILITIES:
        kernels = [_Kernel(launch, capability, case) for launch in case.launches(capability)]
        flops = [kernel.issued_flops for kernel in kernels]
        gpu = next((gpu for gpu in GPUS if gpu.capability == capability), None)
        fits = all(kernel.compiled.shared_bytes <= SHARED_LIMIT[capability] for kernel in kernels)
        known = fits and None not in flops
        times = [kernel_time(k.compiled, gpu, k.programs, k.trips) for k in kernels] if gpu and known else []
        found = bound(times, gpu, *case.work, case.precision) if gpu and times else None
        for number, kernel in enumerate(kernels):
            row = CompiledRow(
                benchmark=benchmark,
                case=case.label,
                capability=capability,
                launch=number,
                kernel=kernel.compiled.name,
                programs=kernel.programs,
                num_warps=kernel.compiled.num_warps,
                registers=kernel.compiled.registers,
                stack_bytes=kernel.compiled.stack_bytes,
                spill_store_bytes=kernel.compiled.spill_store_bytes,
                spill_load_bytes=kernel.compiled.spill_load_bytes,
                shared_bytes=kernel.compiled.shared_bytes,
                shared_limit=SHARED_LIMIT[capability],
                tensor_core=", ".join(f"{count} {opcode}" for opcode, count in kernel.compiled.tensor_core.items()),
                least_bytes=case.work.bytes,
                useful_flops=case.work.flops,
                issued_flops=None if None in flops else sum(filter(None, flops)),
            )
            if found:
                time = times[number]
                row = replace(
                    row,
                    gpu=found.gpu,
                    programs_per_multiprocessor=time.programs_per_multiprocessor,
                    limiter=time.limiter,
                    on_chip=time.part,
                    on_chip_seconds=time.seconds,
                    roofline=found.roofline,
                    bound=found.seconds,
                    of_roofline=found.of_roofline,
                    binding=found.binding,
                    on_chip_share=found.on_chip_share,
                )
            yield row


class _Kernel:
    """A launch, compiled."""

    def __init__(self, launch: Launch, capability: int, case: FactsCase) -> None:
        self.compiled = compile_launch(launch, capability)
        self.programs = math.prod(launch.grid)
        self.trips = case.trips(launch) if capability < 100 else ()
        # For 100 Triton takes turns out of loops, so that the trips are not those of the launch.
        known = capability < 100 or not self.compiled.code.working_loops
        self.issued_flops = self.compiled.mma_flops(self.trips) * self.programs if known else None


def executed_row(benchmark: str, case: FactsCase, generator: torch.Generator) -> ExecutedRow:
    """Executed, and then checked against the reference."""
    small = case.small(generator)
    row = ExecutedRow(
        benchmark,
        case.label,
        " + ".join(launch.kernel.__name__ for launch in small.launches),
        sum(math.prod(launch.grid) for launch in small.launches),
        least_sectors=-(-small.work.bytes // ptx.SECTOR),
        useful_flops=small.work.flops,
    )
    try:
        counts = [execute(launch) for launch in small.launches]
    except ptx.Fault as fault:
        return replace(row, parity=FAILED, detail=str(fault))
    verdict = parity.check(small.found, small.eager, small.exact)
    return replace(
        row,
        parity=PASSED if verdict.passed else FAILED,
        detail=verdict.detail,
        error_ratio=verdict.error_ratio,
        load_sectors=sum(count.load_sectors for count in counts),
        store_sectors=sum(count.store_sectors for count in counts),
        issued_flops=sum(count.mma_flops for count in counts),
        wavefronts=sum(count.wavefronts for count in counts),
        bank_conflicts=sum(count.bank_conflicts for count in counts),
    )
