"""Executes PTX on the CPU and counts what it asks of the memory: the 32-byte sectors that each warp's accesses touch.

All threads of a block are one NumPy vector. Where they part at a branch, those at the lowest instruction go on first, so they meet
again at the earliest place. Covers what nvcc makes of the kernels in csrc; anything else is an error, never a guess. No caches, no
cycles: a count here is what the code requests, not what a GPU's caches let through.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

WARP = 32
SECTOR = 32

TYPES = {
    f"{kind}{bits}": np.dtype(f"{numpy}{bits // 8}")
    for kind, numpy in (("u", "u"), ("b", "u"), ("s", "i"), ("f", "f"))
    for bits in (8, 16, 32, 64)
    if (kind, bits) != ("f", 8)
}


class Fault(Exception):
    """A wrong access, a divergent warp instruction, or PTX that is not covered; names the instruction."""


@dataclass(frozen=True)
class Instruction:
    text: str
    predicate: str | None
    negated: bool
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass
class Kernel:
    parameters: list[str]
    instructions: list[Instruction]
    labels: dict[str, int]
    shared: dict[str, tuple[int, int]]  # name: (offset, size)

    @property
    def shared_bytes(self) -> int:
        return max((offset + size for offset, size in self.shared.values()), default=0)


def parse(ptx: str, name: str) -> Kernel:
    """The one kernel whose mangled name contains `name`."""
    entries = re.findall(r"\.entry\s+(\w+)\((.*?)\)(.*?)^\}", ptx, re.S | re.M)
    (found,) = [entry for entry in entries if name in entry[0]]
    kernel = Kernel(re.findall(r"(\w+_param_\d+)", found[1]), [], {}, {})
    for line in found[2].splitlines():
        line = line.split("//")[0].strip()
        if shared := re.match(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];", line):
            alignment, size = int(shared[1]), int(shared[3])
            kernel.shared[shared[2]] = (-(-kernel.shared_bytes // alignment) * alignment, size)
        elif label := re.match(r"([$\w]+):$", line):
            kernel.labels[label[1]] = len(kernel.instructions)
        elif line.endswith(";") and not line.startswith("."):
            kernel.instructions.append(parse_instruction(line))
    return kernel


def parse_instruction(line: str) -> Instruction:
    parts = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.]+)\s*(.*?);", line)
    if parts is None:
        raise Fault(f"not understood: {line}")
    opcode, *modifiers = parts[3].split(".")
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", parts[4])
    return Instruction(line, parts[2], parts[1] == "!", opcode, tuple(modifiers), tuple(operands))


class Memory:
    """Arrays at made-up addresses, far from one another; an access has to lie in one of them."""

    def __init__(self) -> None:
        self.arrays: list[tuple[int, np.ndarray]] = []

    def add(self, array: np.ndarray, address: int | None = None) -> int:
        """The address of the array's first byte."""
        address = (len(self.arrays) + 1) << 32 if address is None else address
        self.arrays.append((address, array.reshape(-1).view(np.uint8)))
        return address

    def locate(self, addresses: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(array, which of the addresses are in it, where) for each array touched."""
        touched = []
        for start, array in self.arrays:
            inside = (addresses >= start) & (addresses + size <= start + array.size)
            if inside.any():
                touched.append((array, inside, addresses[inside] - start))
        if sum(int(inside.sum()) for _, inside, _ in touched) != addresses.size:
            raise Fault(f"an access of {size} bytes is out of bounds")
        return touched


@dataclass
class Counts:
    """What warps asked for; a sector counts once for each warp instruction that touches it."""

    load_sectors: int = 0
    store_sectors: int = 0
    instructions: Counter = field(default_factory=Counter)  # by warp

    @property
    def sectors(self) -> int:
        return self.load_sectors + self.store_sectors


def launch(
    kernel: Kernel,
    grid: int,
    block: tuple[int, int],
    parameters: Sequence[bytes],
    memory: Memory,
    blocks: Iterable[int] | None = None,
) -> Counts:
    """Runs a one-dimensional grid of two-dimensional blocks, or the named blocks of it."""
    counts = Counts()
    values = dict(zip(kernel.parameters, parameters, strict=True))
    for index in range(grid) if blocks is None else blocks:
        Block(kernel, index, grid, block, values, memory, counts).run()
    return counts


COMPARISONS: dict[str, Callable] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "neu": operator.ne,  # of NaN every NumPy comparison but != is false, as without the u
}  # fmt: skip
ARITHMETIC: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "max": np.maximum, "min": np.minimum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
FUNCTIONS: dict[str, Callable] = {
    "neg": np.negative, "not": np.invert, "abs": np.abs, "sqrt": np.sqrt, "ex2": np.exp2, "rcp": np.reciprocal,
}  # fmt: skip


class Block:
    def __init__(
        self,
        kernel: Kernel,
        index: int,
        grid: int,
        block: tuple[int, int],
        parameters: dict[str, bytes],
        memory: Memory,
        counts: Counts,
    ) -> None:
        self.kernel, self.parameters, self.memory, self.counts = kernel, parameters, memory, counts
        self.threads = np.arange(block[0] * block[1])
        self.special = {
            "%tid.x": self.threads % block[0],
            "%tid.y": self.threads // block[0],
            "%ntid.x": np.full_like(self.threads, block[0]),
            "%ntid.y": np.full_like(self.threads, block[1]),
            "%ctaid.x": np.full_like(self.threads, index),
            "%nctaid.x": np.full_like(self.threads, grid),
        }
        self.registers: dict[str, np.ndarray] = {}  # bits, as uint64; predicates as bool
        self.shared = np.full(kernel.shared_bytes, 0xFF, np.uint8)  # NaN where nothing was written
        self.counter = np.zeros(self.threads.size, np.int64)
        self.active = self.threads  # the threads that execute the current instruction

    def run(self) -> None:
        ended = len(self.kernel.instructions)
        waiting = np.zeros(self.threads.size, bool)
        while (self.counter < ended).any():
            runnable = (self.counter < ended) & ~waiting
            if not runnable.any():
                if not waiting.all():
                    raise Fault("a barrier that some threads never reach")
                waiting[:] = False
                continue
            position = int(self.counter[runnable].min())
            self.active = np.flatnonzero(runnable & (self.counter == position))
            instruction = self.kernel.instructions[position]
            self.counter[self.active] += 1
            if instruction.predicate:
                self.active = self.active[self.registers[instruction.predicate][self.active] != instruction.negated]
            if not self.active.size:
                continue
            self.counts.instructions[instruction.opcode] += len(np.unique(self.active // WARP))
            try:
                if instruction.opcode == "bra":
                    self.counter[self.active] = self.kernel.labels[instruction.operands[0]]
                elif instruction.opcode == "ret":
                    self.counter[self.active] = ended
                elif instruction.opcode == "bar":
                    waiting[self.active] = True
                else:
                    self.execute(instruction)
            except (Fault, KeyError, ValueError) as error:
                raise Fault(f"{error} in: {instruction.text}") from error

    def read(self, operand: str, type_name: str) -> np.ndarray:
        if type_name == "pred":
            return (
                self.registers[operand][self.active] if operand[0] == "%" else np.full(self.active.size, operand != "0")
            )
        dtype = TYPES[type_name]
        bits = np.dtype(f"u{dtype.itemsize}")
        if operand in self.special:
            value = self.special[operand][self.active]
        elif operand.startswith("%"):
            value = self.registers[operand][self.active]
        elif operand.startswith(("0f", "0d")):
            value = np.full(self.active.size, int(operand[2:], 16), np.uint64)
        elif operand in self.kernel.shared:
            value = np.full(self.active.size, self.kernel.shared[operand][0])
        else:
            value = np.full(self.active.size, int(operand, 0) % 2**64, np.uint64)
        return value.astype(bits).view(dtype)

    def write(self, register: str, value: np.ndarray) -> None:
        bits = value if value.dtype == bool else value.view(f"u{value.itemsize}").astype(np.uint64)
        if register not in self.registers:
            self.registers[register] = np.zeros(self.threads.size, bits.dtype)
        self.registers[register][self.active] = bits

    def address(self, operand: str) -> np.ndarray:
        base, _, offset = operand.strip("[] ").partition("+")
        return self.read(base, "s64" if base.startswith("%rd") else "s32").astype(np.int64) + int(offset or "0")

    def execute(self, instruction: Instruction) -> None:
        opcode, modifiers, operands = instruction.opcode, instruction.modifiers, instruction.operands
        kind = modifiers[-1]
        with np.errstate(all="ignore"):
            if opcode in ("ld", "st"):
                self.access(instruction)
            elif opcode in ("mov", "cvta"):
                self.write(operands[0], self.read(operands[1], kind))
            elif opcode == "cvt":
                value = self.read(operands[1], kind).astype(TYPES[modifiers[-2]])
                self.write(operands[0], value.clip(0, 1) if "sat" in modifiers else value)
            elif opcode == "setp":
                first, second = (self.read(operand, kind) for operand in operands[1:])
                isnan = modifiers[0] == "nan"
                self.write(
                    operands[0],
                    np.isnan(first) | np.isnan(second) if isnan else COMPARISONS[modifiers[0]](first, second),
                )
            elif opcode == "selp":
                first, second = (self.read(operand, kind) for operand in operands[1:3])
                self.write(operands[0], np.where(self.read(operands[3], "pred"), first, second))
            elif opcode in ("shl", "shr"):
                value = self.read(operands[1], kind)
                count = self.read(operands[2], "u32").astype(value.dtype)
                self.write(operands[0], value << count if opcode == "shl" else value >> count)
            elif opcode in ("mul", "mad", "fma", "div"):
                self.write(
                    operands[0],
                    self.product(opcode, modifiers, [self.read(o, kind) for o in operands[1:3]], operands[3:]),
                )
            elif opcode in ARITHMETIC:
                self.write(operands[0], ARITHMETIC[opcode](*(self.read(operand, kind) for operand in operands[1:])))
            elif opcode in FUNCTIONS:
                self.write(operands[0], FUNCTIONS[opcode](self.read(operands[1], kind)))
            elif opcode == "shfl":
                self.shuffle(instruction)
            else:
                raise Fault("not covered")

    def product(
        self, opcode: str, modifiers: tuple[str, ...], factors: list[np.ndarray], rest: tuple[str, ...]
    ) -> np.ndarray:
        kind = modifiers[-1]
        if opcode == "div":
            if kind[0] != "f":
                raise Fault("not covered")
            return factors[0] / factors[1]
        if kind[0] != "f":
            if "hi" in modifiers:
                raise Fault("not covered")
            kind = f"{kind[0]}{2 * int(kind[1:])}" if "wide" in modifiers else kind
            result = factors[0].astype(TYPES[kind]) * factors[1].astype(TYPES[kind])
            return result + self.read(rest[0], kind) if rest else result
        if not rest:
            return factors[0] * factors[1]
        exact = factors[0].astype(np.float64) * factors[1] + self.read(rest[0], kind)
        rounded = exact.astype(TYPES[kind])
        if "rm" in modifiers:  # towards minus infinity
            rounded = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
        return rounded

    def shuffle(self, instruction: Instruction) -> None:
        mode = instruction.modifiers[1]
        target, source, lane, clamp, mask = instruction.operands
        if (self.read(clamp, "u32") != WARP - 1).any() or (self.read(mask, "u32") != 2**32 - 1).any():
            raise Fault("not covered")
        if self.active.size % WARP or len(np.unique(self.active // WARP)) * WARP != self.active.size:
            raise Fault("a shuffle that only some lanes of a warp reach")
        lanes = {"bfly": self.active % WARP ^ self.read(lane, "u32"), "idx": self.read(lane, "u32")}[mode]
        values = np.zeros(self.threads.size, np.uint32)
        values[self.active] = self.read(source, "u32")
        self.write(target.split("|")[0], values[self.active // WARP * WARP + lanes.astype(np.int64)])

    def access(self, instruction: Instruction) -> None:
        store = instruction.opcode == "st"
        kind = instruction.modifiers[-1]
        space = next(name for name in ("param", "global", "shared") if name in instruction.modifiers)
        place, values = instruction.operands if store else instruction.operands[::-1]
        registers = re.findall(r"[^\s,{}]+", values)
        width = TYPES[kind].itemsize
        size = width * len(registers)
        if space == "param":
            name, _, offset = place.strip("[] ").partition("+")
            bits = np.frombuffer(self.parameters[name], TYPES[kind], len(registers), int(offset or "0"))
            for register, value in zip(registers, bits, strict=True):
                self.write(register, np.full(self.active.size, value))
            return
        addresses = self.address(place)
        if (addresses % size).any():
            raise Fault(f"an access of {size} bytes is misaligned")
        if space == "global":
            self.count_sectors(addresses, size, store)
            places = self.memory.locate(addresses, size)
        else:
            if (addresses < 0).any() or (addresses + size > self.shared.size).any():
                raise Fault("a shared access is out of bounds")
            places = [(self.shared, np.ones(addresses.size, bool), addresses)]
        for i, register in enumerate(registers):
            moved = self.read(register, kind) if store else np.zeros(addresses.size, TYPES[kind])
            moved = moved.copy().view(np.uint8).reshape(-1, width)
            for array, inside, offsets in places:
                cells = offsets[:, None] + i * width + np.arange(width)
                if store:
                    array[cells] = moved[inside]
                else:
                    moved[inside] = array[cells]
            if not store:
                self.write(register, moved.view(TYPES[kind]).reshape(-1))

    def count_sectors(self, addresses: np.ndarray, size: int, store: bool) -> None:
        touched = np.stack([addresses // SECTOR, (addresses + size - 1) // SECTOR], 1)
        warps = np.repeat(self.active // WARP, 2)
        sectors = len(np.unique(np.stack([warps, touched.reshape(-1)]), axis=1).T)
        if store:
            self.counts.store_sectors += sectors
        else:
            self.counts.load_sectors += sectors
