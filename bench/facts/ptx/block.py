"""One block of threads, executed instruction by instruction."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from . import arithmetic, tensor_cores
from .counts import Counts
from .memory import Memory, SharedMemory, count_banks
from .program import WARP, Fault, Instruction, Kernel
from .values import BITS, TYPES, UNSIGNED, Array, decode, encode

Index = tuple[int, int, int]


def launch(
    kernel: Kernel,
    grid: int | Sequence[int],
    block: Sequence[int],
    parameters: Sequence[bytes],
    memory: Memory,
    blocks: Iterable[int | Sequence[int]] | None = None,
    shared_bytes: int = 0,
) -> Counts:
    """Runs a grid, or the named blocks of it, one block after the other.

    Args:
        kernel: from `parse`.
        grid: numbers of blocks, one to three.
        block: numbers of threads, one to three.
        parameters: of the kernel, in its order.
        memory: what the pointers among them point to.
        blocks: indices in the grid; all by default.
        shared_bytes: of the shared memory that is sized by the launch.

    Raises:
        Fault: see there.
        ValueError: the block or the parameters are not what the kernel takes.
    """
    sizes, threads = _three(grid), _three(block)
    if kernel.threads not in (None, int(np.prod(threads))):
        raise ValueError(f"a block of {threads} threads: {kernel.name} takes {kernel.threads}")
    if [len(value) for value in parameters] != [parameter.bytes for parameter in kernel.parameters]:
        raise ValueError(f"parameters of {[len(value) for value in parameters]} bytes: expected {kernel.parameters}")
    values = {parameter.name: value for parameter, value in zip(kernel.parameters, parameters, strict=True)}
    counts = Counts()
    every = ((x, y, z) for z, y, x in product(*map(range, sizes[::-1])))
    for index in every if blocks is None else (_three(index, 0) for index in blocks):
        Block(kernel, index, sizes, threads, values, memory, counts, shared_bytes).run()
    return counts


def _three(numbers: int | Sequence[int], rest: int = 1) -> Index:
    x, y, z, *_ = (*(numbers if isinstance(numbers, Sequence) else (numbers,)), rest, rest)
    return x, y, z


@dataclass
class Copy:
    """An asynchronous copy that is not waited for yet."""

    addresses: Array
    data: Array
    warps: Array
    instruction: Instruction


class Block:
    """The state of one block.

    `active` holds the threads that execute the current instruction, or None where all do; `counters` the next instruction of each
    thread where they have parted, else None, and then `position` is that of all.
    """

    def __init__(
        self,
        kernel: Kernel,
        index: Index,
        grid: Index,
        block: Index,
        parameters: dict[str, bytes],
        memory: Memory,
        counts: Counts,
        shared_bytes: int,
    ) -> None:
        self.kernel, self.parameters, self.memory, self.counts = kernel, parameters, memory, counts
        self.threads = np.arange(int(np.prod(block)))
        self.warps = self.threads // WARP
        places = (self.threads % block[0], self.threads // block[0] % block[1], self.threads // (block[0] * block[1]))
        self.special = {"%laneid": self.threads % WARP}
        for axis, letter in enumerate("xyz"):
            self.special[f"%tid.{letter}"] = places[axis]
            for name, values in (("ntid", block), ("ctaid", index), ("nctaid", grid)):
                self.special[f"%{name}.{letter}"] = np.full_like(self.threads, values[axis])
        self.constants: dict[tuple[str, str], Array] = {}
        self.registers: dict[str, Array] = {}  # bits, of all threads; never changed in place
        self.shared = SharedMemory(kernel.shared_bytes + shared_bytes)
        self.position = 0
        self.counters: Array | None = None
        self.active: Array | None = None
        self.waiting = np.zeros(self.threads.size, bool)
        self.copies: list[Copy] = []
        self.groups: list[list[Copy]] = []

    def run(self) -> None:
        """To the end of all threads."""
        while (instruction := self.next()) is not None:
            try:
                self.step(instruction)
            except Fault as error:
                raise Fault(f"{error} in: {instruction.where}") from error
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise Fault(f"not covered ({error!r}) in: {instruction.where}") from error

    def next(self) -> Instruction | None:
        """The instruction to execute, with `active` set to its threads; None at the end."""
        end = len(self.kernel.instructions)
        if self.counters is not None:
            running = self.counters < end
            if not running.any():
                return None
            ready = running & ~self.waiting
            if not ready.any():
                if not self.waiting.all():
                    raise Fault("a barrier that some threads never reach")
                self.waiting[:] = False
                self.barrier()
                ready = running
            position = int(self.counters[ready].min())
            self.active = np.flatnonzero(ready & (self.counters == position))
            if self.active.size < self.threads.size:
                self.counters[self.active] += 1
                return self.kernel.instructions[position]
            self.counters, self.position = None, position
        if self.position >= end:
            return None
        self.active = None
        self.position += 1
        return self.kernel.instructions[self.position - 1]

    def barrier(self) -> None:
        self.counts.barriers += 1
        self.shared.barrier()

    def step(self, instruction: Instruction) -> None:
        opcode = instruction.opcode
        if instruction.predicate:
            chosen = self.read(("!" if instruction.negated else "") + instruction.predicate, "pred")
            if not chosen.all():
                self.active = np.flatnonzero(chosen) if self.active is None else self.active[chosen]
                if not self.active.size:
                    return
        self.counts.instructions[opcode] += len(self.active_warps())
        if opcode == "bra":
            self.jump(self.kernel.labels[instruction.operands[0]])
        elif opcode in ("ret", "exit"):
            self.jump(len(self.kernel.instructions))
        elif opcode in ("bar", "barrier"):
            self.arrive(instruction)
        elif opcode in IGNORED:
            pass
        elif execute := EXECUTE.get(opcode):
            execute(self, instruction)
        else:
            self.calculate(instruction)

    def active_threads(self) -> Array:
        return self.threads if self.active is None else self.active

    def active_warps(self) -> Array:
        return np.unique(self.active_threads() // WARP) if self.active is not None else self.warps[::WARP]

    def jump(self, target: int) -> None:
        if self.active is None:
            self.position = target
        else:
            if self.counters is None:
                self.counters = np.full(self.threads.size, self.position)
            self.counters[self.active] = target

    def arrive(self, instruction: Instruction) -> None:
        if instruction.modifiers == ("warp", "sync"):
            return
        if instruction.modifiers[-1] != "sync" and instruction.modifiers[-2:] != ("sync", "aligned"):
            raise Fault("not covered")
        if instruction.operands[0] != "0" or instruction.operands[1:] not in ((), (str(self.threads.size),)):
            raise Fault("a barrier of some of the warps is not covered")
        if self.active is None:
            self.barrier()
        elif self.counters is None:
            raise Fault("a barrier that some threads never reach")
        else:
            self.waiting[self.active] = True

    def whole_warps(self) -> Array:
        """The active threads, which have to be all lanes of their warps, as [warps, 32]."""
        threads = self.active_threads()
        if threads.size % WARP == 0:
            by_warp = threads.reshape(-1, WARP)
            if self.active is None or (by_warp // WARP == by_warp[:, :1] // WARP).all():
                return by_warp
        raise Fault("only some lanes of a warp reach it")

    def read(self, operand: str, kind: str) -> Array:
        """The values of the active threads."""
        if operand.startswith("!"):
            return ~self.read(operand[1:], kind)
        value = self.registers.get(operand)
        if value is None:
            values = self.constant(operand, kind)
        else:
            bits = UNSIGNED[BITS[kind]]
            if bits.itemsize > value.itemsize or (bits.kind == "b") != (value.dtype.kind == "b"):
                raise Fault(f"{operand} has not the {BITS[kind]} bits of {kind}")
            values = decode(value if bits == value.dtype else value.astype(bits), kind)
        return values if self.active is None else values[self.active]

    def constant(self, operand: str, kind: str) -> Array:
        """A number, a special register or the address of shared memory, for all threads."""
        key = operand, kind
        if key not in self.constants:
            if operand in self.special:
                bits = self.special[operand]
            elif operand in self.kernel.shared:
                bits = np.full(self.threads.size, self.kernel.shared[operand][0])
            elif re.match(r"0[fFdD][0-9a-fA-F]+$", operand):
                bits = np.full(self.threads.size, int(operand[2:], 16), np.uint64)
            elif re.match(r"-?(0[xX][0-9a-fA-F]+|\d+)U?$", operand):
                bits = np.full(self.threads.size, int(operand.rstrip("U"), 0) % 2**64, np.uint64)
            else:
                raise Fault(f"{operand} was never written")
            self.constants[key] = decode(bits.astype(UNSIGNED[BITS[kind]]), kind)
        return self.constants[key]

    def write(self, register: str, values: Array, kind: str) -> None:
        """Encode and, where the register is wider, extend by the sign or zeros of the type."""
        if register == "_":
            return
        target = UNSIGNED[self.kernel.bits(register)]
        bits = encode(values, kind)
        if bits.dtype != target:
            if bits.itemsize > target.itemsize or target.kind == "b":
                raise Fault(f"{register} is too small for {kind}")
            signed = kind[0] == "s"
            bits = (
                (bits.view(TYPES[kind]).astype(f"i{target.itemsize}").view(target)) if signed else bits.astype(target)
            )
        if self.active is None:
            same = bits.shape == self.threads.shape
            self.registers[register] = bits if same else np.broadcast_to(bits, self.threads.shape)
        else:
            before = self.registers.get(register)
            after = np.full(self.threads.size, -1).astype(target) if before is None else before.copy()
            after[self.active] = bits
            self.registers[register] = after

    def address(self, operand: str) -> Array:
        parts = re.fullmatch(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        if parts is None:
            raise Fault("an address of another form is not covered")
        base = self.read(parts[1], f"s{self.kernel.bits(parts[1])}" if parts[1] in self.registers else "s64")
        return base.astype(np.int64) + int(parts[2] or "0", 0)

    def calculate(self, instruction: Instruction) -> None:
        target, *operands = instruction.operands
        with np.errstate(all="ignore"):
            values, kind = arithmetic.compute(instruction.opcode, instruction.modifiers, tuple(operands), self.read)
        first, _, second = target.partition("|")
        self.write(first, values, kind)
        if second:
            if instruction.opcode != "setp" or len(operands) != 2:
                raise Fault("a second result is not covered")
            self.write(second, ~values, kind)

    def move(self, instruction: Instruction) -> None:
        """mov and cvta; braces pack several registers into one, or take one apart."""
        target, source = instruction.operands
        kind = instruction.kind
        if instruction.opcode == "cvta" and "global" not in instruction.modifiers:
            raise Fault("not covered")
        if target.startswith("{") or source.startswith("{"):
            names = registers_of(target if target.startswith("{") else source)
            part = UNSIGNED[BITS[kind] // len(names)]
            if target.startswith("{"):
                whole = np.ascontiguousarray(self.read(source, f"b{BITS[kind]}"))
                for name, bits in zip(names, whole.view(part).reshape(-1, len(names)).T, strict=True):
                    self.write(name, np.ascontiguousarray(bits), f"b{8 * part.itemsize}")
            else:
                parts = np.stack([self.read(name, f"b{8 * part.itemsize}") for name in names], -1)
                self.write(target, parts.view(UNSIGNED[BITS[kind]])[:, 0], f"b{BITS[kind]}")
        else:
            self.write(target, self.read(source, kind), kind)

    def access(self, instruction: Instruction) -> None:
        """ld and st, of one register or several."""
        store = instruction.opcode == "st"
        if unknown := {m for m in instruction.modifiers if not MEMORY_MODIFIER.fullmatch(m)}:
            raise Fault(f"{', '.join(sorted(unknown))} is not covered")
        place, values = instruction.operands[:2] if store else instruction.operands[1::-1]
        names, kind = registers_of(values), instruction.kind
        width = TYPES[kind].itemsize
        size = width * len(names)
        if instruction.space == "param":
            self.parameter(place, names, kind)
            return
        addresses, threads = self.address(place), self.active_threads()
        if (addresses % size).any():
            raise Fault(f"an access of {size} bytes is misaligned")
        warps = threads // WARP
        if instruction.space == "shared":
            count_banks(self.counts, addresses, size, threads)
        if store:
            parts = [np.ascontiguousarray(self.read(name, kind)).view(np.uint8).reshape(-1, width) for name in names]
            data = np.concatenate(parts, 1)
            if instruction.space == "shared":
                self.shared.store(addresses, data, warps)
            else:
                self.memory.store(addresses, data, warps, self.counts)
        else:
            if instruction.space == "shared":
                data = self.shared.load(addresses, size, warps)
            else:
                data = self.memory.load(addresses, size, warps, self.counts)
            for i, name in enumerate(names):
                part = np.ascontiguousarray(data[:, i * width : (i + 1) * width])
                self.write(name, part.view(TYPES[kind])[:, 0], kind)

    def parameter(self, place: str, names: list[str], kind: str) -> None:
        name, _, offset = place.strip("[] ").partition("+")
        values = np.frombuffer(self.parameters[name.strip()], TYPES[kind], len(names), int(offset or "0"))
        for register, value in zip(names, values, strict=True):
            self.write(register, np.full(self.active_threads().size, value), kind)

    def copy(self, instruction: Instruction) -> None:
        """cp.async: it is in shared memory when the threads have waited for the group that it was committed to."""
        if instruction.modifiers[0] != "async" or self.counters is not None:
            raise Fault("not covered where threads have parted")
        what = instruction.modifiers[1]
        if what == "commit_group":
            self.groups.append(self.copies)
            self.copies = []
        elif what in ("wait_group", "wait_all"):
            if what == "wait_all":
                self.groups.append(self.copies)
                self.copies = []
            left = int(instruction.operands[0], 0) if what == "wait_group" else 0
            done, self.groups = self.groups[: len(self.groups) - left], self.groups[max(0, len(self.groups) - left) :]
            for one in (one for group in done for one in group):
                self.shared.end_copy(one.addresses, one.data, one.warps)
        elif what in ("ca", "cg"):
            self.begin_copy(instruction)
        else:
            raise Fault("not covered")

    def begin_copy(self, instruction: Instruction) -> None:
        to, source, size_text, *rest = instruction.operands
        if rest and "L2::cache_hint" in instruction.modifiers:
            rest.pop()
        size = int(size_text, 0)
        target, origin, threads = self.address(to), self.address(source), self.active_threads()
        if (target % size).any() or (origin % size).any():
            raise Fault(f"a copy of {size} bytes is misaligned")
        wanted = self.read(rest[0], "u32") if rest else np.full(threads.size, size, np.uint32)
        data = np.zeros((threads.size, size), np.uint8)
        for count in np.unique(wanted[wanted > 0]):
            chosen = wanted == count
            found = self.memory.load(origin[chosen], int(count), threads[chosen] // WARP, self.counts)
            data[chosen, : int(count)] = found
        count_banks(self.counts, target, size, threads)
        self.shared.begin_copy(target, size, threads // WARP)
        self.copies.append(Copy(target, data, threads // WARP, instruction))

    def load_matrix(self, instruction: Instruction) -> None:
        modifiers = instruction.modifiers
        count = {"x1": 1, "x2": 2, "x4": 4}[next(m for m in modifiers if m.startswith("x"))]
        if set(modifiers) - {"sync", "aligned", "m8n8", f"x{count}", "trans", "shared", "shared::cta", "b16"}:
            raise Fault("not covered")
        by_warp = self.whole_warps()
        lanes = by_warp[:, tensor_cores.row_lanes(count)]
        addresses = self.address(instruction.operands[1]).reshape(-1, WARP)[:, tensor_cores.row_lanes(count)]
        if (addresses % 16).any():
            raise Fault("a row is misaligned")
        count_banks(self.counts, addresses.reshape(-1), 16, lanes.reshape(-1))
        rows = self.shared.load(addresses.reshape(-1), 16, lanes.reshape(-1) // WARP)
        found = tensor_cores.fragments(rows.reshape(len(by_warp), 8 * count, 16), count, "trans" in modifiers)
        for name, bits in zip(registers_of(instruction.operands[0]), found, strict=True):
            self.write(name, bits, "b32")

    def multiply(self, instruction: Instruction) -> None:
        of = tensor_cores.shape(instruction.modifiers)
        warps = len(self.whole_warps())
        target, *sources = map(registers_of, instruction.operands)
        first, second, third = (
            [self.read(name, kind) for name in names]
            for names, kind in zip(sources, ("b32", "b32", "f32"), strict=True)
        )
        with np.errstate(all="ignore"):
            result = tensor_cores.multiply(of, first, second, third)
        for name, values in zip(target, result, strict=True):
            self.write(name, values, "f32")
        self.counts.mma[".".join(instruction.modifiers[2:])] += warps
        self.counts.mma_flops += warps * of.flops

    def shuffle(self, instruction: Instruction) -> None:
        mode = instruction.modifiers[1]
        target, source, lane, clamp, mask = instruction.operands
        whole = {"bfly": WARP - 1, "idx": WARP - 1, "down": WARP - 1, "up": 0}[mode]
        if (self.read(clamp, "u32") != whole).any() or (self.read(mask, "u32") != 2**32 - 1).any():
            raise Fault("a shuffle among some of the lanes is not covered")
        own = self.whole_warps() % WARP
        offset = self.read(lane, "u32").astype(np.int64).reshape(-1, WARP)
        wanted = {"bfly": own ^ offset, "idx": offset, "down": own + offset, "up": own - offset}[mode]
        inside = (wanted >= 0) & (wanted < WARP)
        values = self.read(source, "b32").reshape(-1, WARP)
        taken = np.take_along_axis(values, np.where(inside, wanted, own), 1)
        register, _, predicate = target.partition("|")
        self.write(register, taken.reshape(-1), "b32")
        if predicate:
            self.write(predicate, inside.reshape(-1), "pred")

    def vote(self, instruction: Instruction) -> None:
        mode = instruction.modifiers[1]
        target, source, mask = instruction.operands
        if (self.read(mask, "u32") != 2**32 - 1).any():
            raise Fault("a vote among some of the lanes is not covered")
        votes = self.read(source, "pred").reshape(self.whole_warps().shape)
        if mode == "ballot":
            result = (votes.astype(np.uint32) << np.arange(WARP, dtype=np.uint32)).sum(1, dtype=np.uint32)
        else:
            result = {"any": votes.any(1), "all": votes.all(1), "uni": votes.all(1) | ~votes.any(1)}[mode]
        self.write(target, np.repeat(result, WARP), "b32" if mode == "ballot" else "pred")

    def reduce(self, instruction: Instruction) -> None:
        """redux.sync: one result for all lanes of a warp."""
        target, source, mask = instruction.operands
        if (self.read(mask, "u32") != 2**32 - 1).any():
            raise Fault("a reduction over some of the lanes is not covered")
        over = REDUCTIONS[instruction.modifiers[1]]
        values = self.read(source, instruction.kind).reshape(self.whole_warps().shape)
        self.write(target, np.repeat(over.reduce(values, 1, dtype=values.dtype), WARP), instruction.kind)

    def policy(self, instruction: Instruction) -> None:
        """createpolicy: which lines a cache keeps changes no value and no count."""
        self.write(instruction.operands[0], np.zeros(self.active_threads().size, np.uint64), "b64")


IGNORED = ("membar", "fence")
MEMORY_MODIFIER = re.compile(
    r"param|global|shared(::cta)?|v[248]|[busf](8|16|32|64)|nc|ca|cg|cs|lu|wb|wt|volatile|relaxed|gpu|cta|"
    r"L1::\w+|L2::\w+"
)
REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
EXECUTE: dict[str, Callable[[Block, Instruction], None]] = {
    "mov": Block.move, "cvta": Block.move, "ld": Block.access, "st": Block.access, "cp": Block.copy,
    "ldmatrix": Block.load_matrix, "mma": Block.multiply, "shfl": Block.shuffle, "vote": Block.vote,
    "redux": Block.reduce, "createpolicy": Block.policy,
}  # fmt: skip


def registers_of(operand: str) -> list[str]:
    """One register, or those in braces."""
    return re.findall(r"[^\s,{}]+", operand)
