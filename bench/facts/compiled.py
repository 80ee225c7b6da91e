"""What Triton compiles a launch to for a GPU that is not there: registers, spills, shared memory, instructions."""

import functools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from . import sass


class Launch(Protocol):
    """See `kernels/common/launches.py`."""

    @property
    def kernel(self) -> Any: ...
    @property
    def grid(self) -> tuple[int, ...]: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...
    @property
    def constexprs(self) -> Mapping[str, Any]: ...
    @property
    def num_warps(self) -> int: ...
    @property
    def num_stages(self) -> int: ...


@dataclass(frozen=True)
class Compiled:
    """Attributes:
    name: of the kernel.
    capability: of the GPU it is compiled for: 80, 90 or 100.
    num_warps: a program.
    parameters: of the PTX, by the name of the argument of the kernel, in order. What Triton adds at the end has no name here.
    registers: a thread.
    stack_bytes: of local memory a thread, which holds what was spilled.
    static_shared_bytes, dynamic_shared_bytes: a program; the driver's own KiB on sm_90 and later is not counted.
    ptx: as Triton wrote it.
    cubin: as ptxas assembled it.
    """

    name: str
    capability: int
    num_warps: int
    parameters: tuple[str, ...]
    registers: int
    stack_bytes: int
    static_shared_bytes: int
    dynamic_shared_bytes: int
    ptx: str
    cubin: bytes

    @property
    def shared_bytes(self) -> int:
        return self.static_shared_bytes + self.dynamic_shared_bytes

    @cached_property
    def code(self) -> sass.Code:
        """The machine code; disassembled when it is first asked for, which takes longer than to compile it."""
        return sass.parse(run_tool("nvdisasm", self.cubin, "-c"))

    @cached_property
    def instructions(self) -> Counter[str]:
        """How often each opcode stands in the machine code, its modifiers included."""
        return Counter(instruction.opcode for instruction in self.code.instructions)

    @property
    def spill_store_bytes(self) -> int:
        """Written to local memory by one thread that executes every instruction once: what ptxas -v calls spill stores."""
        return sum(i.width for i in self.code.instructions if i.name == "STL")

    @property
    def spill_load_bytes(self) -> int:
        """Read from local memory, likewise."""
        return sum(i.width for i in self.code.instructions if i.name == "LDL")

    @property
    def tensor_core(self) -> dict[str, int]:
        """The instructions of the tensor cores among them: HMMA (a warp), HGMMA (wgmma, four warps), UTCHMMA (tcgen05, a program)."""
        return {opcode: count for opcode, count in self.instructions.items() if opcode.partition(".")[0] in TENSOR_CORE}

    def mma_flops(self, trips: Sequence[int] = ()) -> int:
        """Floating-point operations of the tensor cores that one program issues; a multiplication and an addition are two.

        Args:
            trips: see `sass.Code.executions`.

        Raises:
            ValueError: not one number for each loop, or an instruction whose shape is not known.
        """
        executions = zip(self.code.instructions, self.code.executions(trips), strict=True)
        of_warps = sum(times * warp_flops(i.opcode) for i, times in executions if i.name in WARP_WIDE)
        return of_warps * self.num_warps + self.tcgen05_flops(trips)

    def tcgen05_flops(self, trips: Sequence[int] = ()) -> int:
        """The part of `mma_flops` that programs issue as one, on sm_100."""
        executions = zip(self.code.instructions, self.code.executions(trips), strict=True)
        found = [times for i, times in executions if i.name in PROGRAM_WIDE]
        described = [program_flops(self.ptx, *match) for match in TCGEN05.findall(self.ptx)]
        if len(described) != len(found):
            raise ValueError(f"{self.name}: {len(found)} tcgen05 instructions come from {len(described)} in the PTX")
        return sum(times * flops for times, flops in zip(found, described, strict=True))


WARP_WIDE = ("HMMA", "IMMA", "DMMA", "QMMA", "HGMMA", "IGMMA", "QGMMA")
PROGRAM_WIDE = ("UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA")
TENSOR_CORE = (*WARP_WIDE, *PROGRAM_WIDE)

TCGEN05 = re.compile(r"tcgen05\.mma\.cta_group::1\.kind::(\w+) \[[^]]*\], [^,]+, [^,]+, (%\w+),")

# K of one tcgen05.mma without sparsity: 32 bytes of a row of A. PTX ISA 9.0, section 9.7.16.2.1.
TCGEN05_DEPTH = {"f16": 16, "tf32": 8, "f8f6f4": 32, "i8": 32}


def warp_flops(opcode: str) -> int:
    """Of HMMA.16816.F32.BF16, or of a quarter of HGMMA.64x128x16.F32.BF16, which four warps issue as one.

    Raises:
        ValueError: the opcode names another instruction.
    """
    if found := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)\.", opcode):
        rows, columns, depth = map(int, found.groups())
        return 2 * rows * columns * depth // 4
    if found := re.match(r"HMMA\.16(8)(8|16|32|4)\.", opcode):
        return 2 * 16 * int(found[1]) * int(found[2])
    raise ValueError(f"{opcode}: its shape is not known")


def program_flops(ptx: str, kind: str, descriptor: str) -> int:
    """Of one tcgen05.mma, by the constant in its instruction descriptor (PTX ISA 9.0, section 9.7.16.4.2).

    Raises:
        ValueError: the descriptor is no constant.
    """
    constants = set(re.findall(rf"mov\.\w+\s+{re.escape(descriptor)}, (-?\d+);", ptx))
    if len(constants) != 1 or kind not in TCGEN05_DEPTH:
        raise ValueError(f"tcgen05.mma of kind {kind}, descriptor {descriptor} = {sorted(constants)}: not one constant")
    bits = int(constants.pop())
    columns, rows = 8 * (bits >> 17 & 0x3F), 16 * (bits >> 24 & 0x1F)
    return 2 * rows * columns * TCGEN05_DEPTH[kind]


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """Compile as the first launch on such a GPU would: the same specialization, options and passes.

    Triton keeps what it compiled, so that a second call takes no time.

    Raises:
        ValueError: Triton is set to interpret, so there is nothing to compile.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile, make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    kernel = launch.kernel
    if not isinstance(kernel, JITFunction):
        raise ValueError(f"{kernel!r} is not compiled (is TRITON_INTERPRET set?): expected a function of triton.jit")
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, rest = bind(**launch.arguments, **launch.constexprs, **options)
    parsed, signature, constexprs, attributes = kernel._pack_args(backend, options, bound, specialization, rest)
    made = compile(ASTSource(kernel, signature, constexprs, attributes), target=target, options=parsed.__dict__)
    (usage,) = re.findall(r"REG:.*", run_tool("cuobjdump", made.asm["cubin"], "-res-usage"))
    resources = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", usage)}
    return Compiled(
        name=made.metadata.name,
        capability=capability,
        num_warps=launch.num_warps,
        parameters=tuple(name for name, kind in signature.items() if kind != "constexpr"),
        registers=resources["REG"],
        stack_bytes=resources["STACK"],
        static_shared_bytes=resources["SHARED"] - (1024 if capability >= 90 else 0),
        dynamic_shared_bytes=made.metadata.shared,
        ptx=made.asm["ptx"],
        cubin=made.asm["cubin"],
    )


@functools.lru_cache
def run_tool(name: str, cubin: bytes, option: str) -> str:
    """What a tool that comes with Triton, cuobjdump or nvdisasm, prints of a cubin.

    Raises:
        subprocess.CalledProcessError: the tool does not understand it.
    """
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [getattr(knobs.nvidia, name).path, option, file]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
