"""The facts of a case as rows: what was compiled for each GPU with its bound, and what was executed on the CPU."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from intraformer_fast.errors import MissingDependencyError

from .. import parity
from ..run import FAILED, PASSED
from . import ptx
from .bound import Bound, bound
from .cases import Facts, FactsCase
from .compiled import Compiled, compile_launch
from .execute import execute
from .gpus import GPUS, SHARED_LIMIT

CAPABILITIES = (80, 90, 100)


@dataclass(frozen=True)
class CompiledRow:
    """What a case compiles to for one GPU. Nothing of it was run.

    Attributes:
        benchmark, case, kernel: names.
        capability: of the GPU, 80, 90 or 100.
        programs, num_warps: of the launch.
        registers: a thread.
        stack_bytes, spill_store_bytes, spill_load_bytes: a thread.
        shared_bytes: a program; `shared_limit` is what it can have.
        tensor_core: instructions, such as "128 HMMA.16816.F32.BF16".
        least_bytes, useful_flops: of any kernel for the launch.
        issued_flops: of the tensor cores in the whole launch; None where it is not known (a loop, for 100).
        gpu: that the bound is of; empty where there is none.
        roofline, bound: seconds; see `bound.Bound`.
        of_roofline: at most 1.
        binding: what takes the bound's time.
        on_chip: the busiest part of the multiprocessors, and `on_chip_share` its time over the bound's.
        programs_per_multiprocessor, limiter: how many fit at a time, and what limits them.
    """

    benchmark: str
    case: str
    kernel: str
    capability: int
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
    roofline: float | None = None
    bound: float | None = None
    of_roofline: float | None = None
    binding: str = ""
    on_chip: str = ""
    on_chip_share: float | None = None
    programs_per_multiprocessor: int | None = None
    limiter: str = ""


@dataclass(frozen=True)
class ExecutedRow:
    """What the PTX for capability 80 asked for when it was executed on the CPU at a small size.

    Attributes:
        benchmark, case, kernel: names.
        programs: executed.
        parity: "passed" or "FAILED"; `detail` in words, `error_ratio` as `parity.Verdict` has it.
        least_sectors: of 32 bytes, of any kernel.
        load_sectors, store_sectors: that its warps asked for.
        useful_flops: of any kernel.
        issued_flops: of its matrix instructions.
        wavefronts, bank_conflicts: of shared memory; see `ptx.Counts`.
    """

    benchmark: str
    case: str
    kernel: str
    programs: int
    parity: str
    detail: str
    error_ratio: float | None
    least_sectors: int
    load_sectors: int | None = None
    store_sectors: int | None = None
    useful_flops: int | None = None
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
    """One for each of CAPABILITIES."""
    for capability in CAPABILITIES:
        launch = case.launch(capability)
        programs, trips = math.prod(launch.grid), case.trips(launch)
        compiled = compile_launch(launch, capability)
        known = capability < 100 or not compiled.code.working_loops
        yield CompiledRow(
            benchmark=benchmark,
            case=case.label,
            kernel=compiled.name,
            capability=capability,
            programs=programs,
            num_warps=compiled.num_warps,
            registers=compiled.registers,
            stack_bytes=compiled.stack_bytes,
            spill_store_bytes=compiled.spill_store_bytes,
            spill_load_bytes=compiled.spill_load_bytes,
            shared_bytes=compiled.shared_bytes,
            shared_limit=SHARED_LIMIT[capability],
            tensor_core=", ".join(f"{count} {opcode}" for opcode, count in compiled.tensor_core.items()),
            least_bytes=case.work.bytes,
            useful_flops=case.work.flops,
            issued_flops=compiled.mma_flops(trips if capability < 100 else ()) * programs if known else None,
            **_bound(case, compiled, programs, trips),
        )


def _bound(case: FactsCase, compiled: Compiled, programs: int, trips: Sequence[int]) -> dict[str, Any]:
    """The fields of a row that a GPU of this capability has; none where no program fits on it, or no such GPU is known."""
    gpu = next((gpu for gpu in GPUS if gpu.capability == compiled.capability), None)
    if gpu is None or compiled.shared_bytes > SHARED_LIMIT[compiled.capability]:
        return {}
    found: Bound = bound(compiled, gpu, programs, *case.work, case.precision, trips)
    return {
        "gpu": found.gpu,
        "roofline": found.roofline,
        "bound": found.seconds,
        "of_roofline": found.of_roofline,
        "binding": found.binding,
        "on_chip": found.on_chip,
        "on_chip_share": found.on_chip_share,
        "programs_per_multiprocessor": found.programs_per_multiprocessor,
        "limiter": found.limiter,
    }


def executed_row(benchmark: str, case: FactsCase, generator: torch.Generator) -> ExecutedRow:
    """Executed, and then checked against the reference."""
    small = case.small(generator)
    names = benchmark, case.label, small.launch.kernel.__name__, math.prod(small.launch.grid)
    least_sectors = -(-small.work.bytes // ptx.SECTOR)
    try:
        counts = execute(small.launch)
    except ptx.Fault as fault:
        return ExecutedRow(*names, FAILED, str(fault), None, least_sectors)
    verdict = parity.check(small.found, small.eager, small.exact)
    return ExecutedRow(
        *names,
        PASSED if verdict.passed else FAILED,
        verdict.detail,
        verdict.error_ratio,
        least_sectors,
        load_sectors=counts.load_sectors,
        store_sectors=counts.store_sectors,
        useful_flops=small.work.flops,
        issued_flops=counts.mma_flops,
        wavefronts=counts.wavefronts,
        bank_conflicts=counts.bank_conflicts,
    )
