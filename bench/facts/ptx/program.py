"""PTX text, taken apart: parameters, registers, shared memory, labels and instructions of one kernel."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

WARP = 32


class Fault(Exception):
    """A wrong access, a race, a divergent warp instruction, or PTX that is not covered; names the instruction."""


@dataclass(frozen=True)
class Instruction:
    """Attributes:
    text: as it stands in the PTX.
    predicate: a register, or None; `negated` where it is written with an exclamation mark.
    opcode, modifiers: the parts between the points, such as "ld" and ("global", "v4", "b32").
    operands: in order; those in braces or brackets as one.
    location: file and line of the source, where the PTX tells.
    """

    text: str
    predicate: str | None
    negated: bool
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    location: str

    @cached_property
    def kind(self) -> str:
        """The type of the operands: the last modifier."""
        return self.modifiers[-1]

    @cached_property
    def space(self) -> str:
        """Of the memory that is accessed."""
        names = {"param", "global", "shared", "shared::cta"}
        found = next((modifier for modifier in self.modifiers if modifier in names), None)
        if found is None:
            raise Fault("an access of generic or local memory is not covered")
        return found.partition(":")[0]

    @cached_property
    def where(self) -> str:
        """For the words of an error."""
        return self.text + (f" ({self.location})" if self.location else "")


@dataclass(frozen=True)
class Parameter:
    name: str
    bytes: int


@dataclass
class Kernel:
    """Attributes:
    name: mangled.
    parameters: in order.
    threads: of a block, where the PTX prescribes them.
    registers: by name the bits of each; 1 for a predicate.
    labels: the instruction that follows each.
    shared: by name (offset, bytes); what is sized by the launch comes last and has none.
    """

    name: str
    parameters: list[Parameter]
    threads: int | None = None
    registers: dict[str, int] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def shared_bytes(self) -> int:
        return max((offset + size for offset, size in self.shared.values()), default=0)

    def bits(self, register: str) -> int:
        """Raises Fault where it is not declared."""
        bits = self.registers.get(register)
        if bits is None:
            bits = self.registers.get(re.sub(r"\d+$", "", register))
            if bits is None:
                raise Fault(f"{register} is not declared")
            self.registers[register] = bits
        return bits


COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", re.S)
THREADS = re.compile(r"\.reqntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?")
FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"')
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d*)\]$")
EXTERN_SHARED = re.compile(r"^\s*\.extern\s+(\.shared[^;]*);", re.M)
SPACE = re.compile(r"\s*")
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)[^\n]*\n")
LABEL = re.compile(r"([$\w]+):(?!:)")
INSTRUCTION = re.compile(r"(?:@(!?)(%?\w+)\s+)?([a-z][\w.:]*)\s*(.*)")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
NAME = re.compile(r"(?<![\w.$%])%?[A-Za-z_$][\w$]*")


def parse(ptx: str, name: str) -> Kernel:
    """The one kernel whose mangled name contains `name`.

    Raises:
        ValueError: there is none, or more than one.
        Fault: a line of it is not understood.
    """
    ptx = COMMENT.sub("", ptx)
    found = [match for match in ENTRY.finditer(ptx) if name in match[1]]
    if len(found) != 1:
        raise ValueError(f"{name!r} is in the names {[match[1] for match in found]}: expected one kernel")
    (entry,) = found
    kernel = Kernel(entry[1], [_parameter(text) for text in entry[2].split(",") if text.strip()])
    if threads := THREADS.search(entry[3]):
        kernel.threads = int(threads[1]) * int(threads[2] or 1) * int(threads[3] or 1)
    files = {match[1]: match[2].rpartition("/")[2] for match in FILE.finditer(ptx)}
    _Body(ptx, entry.end(), kernel, files).read()
    for match in EXTERN_SHARED.finditer(ptx):
        _declare_shared(kernel, match[1])
    return kernel


def _parameter(text: str) -> Parameter:
    name = re.search(r"([\w$]+)(?:\[(\d+)\])?\s*$", text)
    kind = re.search(r"\.param\s+(?:\.align\s+\d+\s+)?\.[a-z]+(\d+)", text)
    if name is None or kind is None:
        raise Fault(f"not understood: {text.strip()}")
    return Parameter(name[1], int(kind[1]) // 8 * int(name[2] or 1))


def _declare_shared(kernel: Kernel, text: str) -> None:
    shared = SHARED.match(text)
    if shared is None:
        raise Fault(f"not understood: {text}")
    alignment = int(shared[1])
    kernel.shared[shared[2]] = (-(-kernel.shared_bytes // alignment) * alignment, int(shared[3] or 0))


class _Body:
    """Reads the statements between the braces of a kernel.

    Braces inside are inline assembly; the registers that they declare are theirs alone, and get another name.
    """

    def __init__(self, text: str, position: int, kernel: Kernel, files: Mapping[str, str]) -> None:
        self.text, self.position, self.kernel, self.files = text, position, kernel, files
        self.scopes: list[dict[str, str]] = [{}]
        self.declared = 0
        self.location = ""

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return match

    def read(self) -> None:
        while self.scopes:
            self.skip(SPACE)
            first = self.text[self.position]
            if first in "{};":
                self.position += 1
                if first == "{":
                    self.scopes.append({})
                elif first == "}":
                    self.scopes.pop()
            elif line := self.skip(LOCATION):
                self.location = f"{self.files.get(line[1], line[1])}:{line[2]}"
            elif label := self.skip(LABEL):
                self.kernel.labels[label[1]] = len(self.kernel.instructions)
            else:
                end = self.text.index(";", self.position)
                statement = " ".join(self.text[self.position : end].split())
                self.position = end
                if statement.startswith("."):
                    self.directive(statement)
                else:
                    self.kernel.instructions.append(self.instruction(statement))

    def directive(self, text: str) -> None:
        if registers := re.match(r"\.reg\s+\.([a-z]+)(\d*)\s+(.*)", text):
            bits = 1 if registers[1] == "pred" else int(registers[2])
            for name in registers[3].split(","):
                self.declare(name.strip(), bits)
        elif text.startswith(".shared"):
            _declare_shared(self.kernel, text)
        elif not text.startswith(".pragma"):
            raise Fault(f"not covered: {text}")

    def declare(self, name: str, bits: int) -> None:
        if many := re.fullmatch(r"(%[\w$]*?)<\d+>", name):
            self.kernel.registers[many[1]] = bits
        else:
            self.declared += 1
            self.scopes[-1][name] = f"%{name.strip('%')}@{self.declared}"
            self.kernel.registers[self.scopes[-1][name]] = bits

    def instruction(self, text: str) -> Instruction:
        parts = INSTRUCTION.fullmatch(text)
        if parts is None:
            raise Fault(f"not understood: {text}")
        opcode, *modifiers = parts[3].split(".")
        operands = OPERAND.findall(self.renamed(parts[4]))
        predicate = self.renamed(parts[2]) if parts[2] else None
        return Instruction(text, predicate, parts[1] == "!", opcode, tuple(modifiers), tuple(operands), self.location)

    def renamed(self, operands: str) -> str:
        own = {name: new for scope in self.scopes for name, new in scope.items()}
        return NAME.sub(lambda match: own.get(match[0], match[0]), operands) if own else operands
