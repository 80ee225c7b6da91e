"""The machine code of a kernel as nvdisasm prints it: its instructions, and how often each is executed."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

LINE = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"(\.?[$\w.]+):$")
TARGET = re.compile(r"`\((\.?[$\w.]+)\)")

ENDS = ("EXIT", "RET", "BRA", "BRX", "JMP")
SPINS = ("SYNCS", "NANOSLEEP", "UTCATOMSWS")


@dataclass(frozen=True)
class Instruction:
    """Attributes:
    predicate: such as "@!P0"; empty where there is none.
    opcode: with all modifiers, such as "HMMA.16816.F32.BF16".
    operands: as printed.
    """

    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def width(self) -> int:
        """Bytes that a load or store moves a thread."""
        widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((widths[part] for part in self.opcode.split(".") if part in widths), 4)


@dataclass(frozen=True)
class Block:
    """Instructions `first` up to `end` (not included) that follow one another in every case."""

    first: int
    end: int
    successors: tuple[int, ...]  # blocks


@dataclass(frozen=True)
class Loop:
    """Blocks that are repeated; the header is the one through which it is entered."""

    header: int
    blocks: frozenset[int]


@dataclass(frozen=True)
class Code:
    """One kernel."""

    instructions: tuple[Instruction, ...]
    blocks: tuple[Block, ...]

    @cached_property
    def reachable(self) -> frozenset[int]:
        """The blocks that are reached without a call of a helper, such as the slow path of a division."""
        found, open_ = set(), [0] if self.blocks else []
        while open_:
            block = open_.pop()
            if block not in found:
                found.add(block)
                open_ += self.blocks[block].successors
        return frozenset(found)

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """The natural loops, by the address of their headers; those that share a header are one."""
        dominators = self._dominators()
        before = self._predecessors()
        bodies: dict[int, set[int]] = defaultdict(set)
        for tail in self.reachable:
            for header in self.blocks[tail].successors:
                if header in dominators[tail]:
                    body, open_ = {header}, [tail]
                    while open_:
                        block = open_.pop()
                        if block not in body:
                            body.add(block)
                            open_ += before[block]
                    bodies[header] |= body
        return tuple(Loop(header, frozenset(body)) for header, body in sorted(bodies.items()))

    @property
    def working_loops(self) -> tuple[Loop, ...]:
        """The loops that do not merely wait for a barrier."""
        return tuple(loop for loop in self.loops if not self._spins(loop))

    def within(self, loop: Loop) -> Iterator[Instruction]:
        """The instructions of a loop, those of inner loops included."""
        for block in sorted(loop.blocks):
            yield from self.instructions[self.blocks[block].first : self.blocks[block].end]

    def executions(self, trips: Sequence[int] = ()) -> tuple[int, ...]:
        """How often a warp executes each instruction, if every branch that skips something falls through.

        Args:
            trips: of each working loop, for one entry into it, by the address of its header: an outer loop before the inner.

        Raises:
            ValueError: not as many trips as working loops.
        """
        loops = self.working_loops
        if len(trips) != len(loops):
            found = "; ".join(self.describe(loop) for loop in loops) or "none"
            raise ValueError(f"trips = {list(trips)}: expected one for each of {len(loops)} loops ({found})")
        counts = [0] * len(self.instructions)
        waiting = [loop for loop in self.loops if self._spins(loop)]
        for index in self.reachable:
            times = 0 if any(index in loop.blocks for loop in waiting) else 1
            for loop, trip in zip(loops, trips, strict=True):
                times *= trip if index in loop.blocks else 1
            block = self.blocks[index]
            counts[block.first : block.end] = [times] * (block.end - block.first)
        return tuple(counts)

    def describe(self, loop: Loop) -> str:
        """Where it is and how long."""
        found = list(self.within(loop))
        matrix = sum("MMA" in instruction.name for instruction in found)
        return f"{len(found)} instructions from {self.blocks[loop.header].first:d}, {matrix} of them matrix products"

    def _spins(self, loop: Loop) -> bool:
        found = list(self.within(loop))
        return len(found) <= 8 and any(instruction.name in SPINS for instruction in found)

    def _predecessors(self) -> dict[int, list[int]]:
        before: dict[int, list[int]] = defaultdict(list)
        for block in self.reachable:
            for successor in self.blocks[block].successors:
                before[successor].append(block)
        return before

    def _dominators(self) -> dict[int, set[int]]:
        """By block, those that every path to it passes, itself included."""
        before = self._predecessors()
        order = sorted(self.reachable)
        dominators = {block: set(order) for block in order}
        dominators[0] = {0}
        changed = True
        while changed:
            changed = False
            for block in order[1:]:
                found = set.intersection(*(dominators[other] for other in before[block])) | {block}
                changed |= found != dominators[block]
                dominators[block] = found
        return dominators


def parse(listing: str) -> Code:
    """What `nvdisasm -c` printed for a file of one kernel.

    Raises:
        ValueError: there is no instruction in it, or a branch to nowhere.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := LINE.match(line):
            instructions.append(Instruction(found[1] or "", found[2], found[3]))
    if not instructions:
        raise ValueError("no instruction was found: expected what nvdisasm -c prints")
    return Code(tuple(instructions), tuple(_blocks(instructions, labels)))


def _blocks(instructions: Sequence[Instruction], labels: dict[str, int]) -> Iterator[Block]:
    branches = {i: instruction for i, instruction in enumerate(instructions) if instruction.name in (*ENDS, "CALL")}
    starts = {0, *labels.values(), *(i + 1 for i in branches)} - {len(instructions)}
    number = {first: index for index, first in enumerate(sorted(starts))}
    for first, end in pairwise([*sorted(starts), len(instructions)]):
        successors = []
        last = branches.get(end - 1)
        if last is None or last.predicate or last.name == "CALL" or conditional(last):
            successors += [end] if end < len(instructions) else []
        if last is not None and (target := TARGET.search(last.operands)) and last.name not in ("RET", "EXIT"):
            if target[1] not in labels:
                raise ValueError(f"{last.opcode} {last.operands}: the target has no label")
            if last.name != "CALL" or target[1].startswith(".L"):
                successors.append(labels[target[1]])
        yield Block(first, end, tuple(number[successor] for successor in successors))


def conditional(branch: Instruction) -> bool:
    """Whether a branch has its condition among the operands, such as BRA.U UP0, `(.L_x_0), or BRA.DIV."""
    return branch.name == "BRA" and (
        ".U" in branch.opcode or ".DIV" in branch.opcode or "P" in branch.operands.split("`")[0]
    )
