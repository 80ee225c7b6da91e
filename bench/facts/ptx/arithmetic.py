"""What the instructions compute that take registers and give registers, a thread at a time.

Rounding is to the nearest; what PTX calls approximate is computed as exactly as NumPy does.
"""

import operator
from collections.abc import Callable

import numpy as np

from .program import Fault
from .values import BITS, FLOATS, TYPES, Array, flushed, to_integer

Read = Callable[[str, str], Array]
"""read(operand, type): its values."""

COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq, "ne": lambda a, b: (a < b) | (a > b), "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
    # True where one is NaN.
    "equ": lambda a, b: ~((a < b) | (a > b)), "neu": operator.ne, "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip
LOGIC: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
SUMS: dict[str, Callable[[Array, Array], Array]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "rcp": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x),
    "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip


def compute(opcode: str, modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """The values for the first operand, and their type.

    Args:
        opcode, modifiers: of the instruction.
        operands: without the one that is written.
        read: see `Read`.

    Raises:
        Fault: it is not covered.
    """
    kind = modifiers[-1]
    if unknown := set(modifiers) - KNOWN.get(opcode, frozenset()) - BITS.keys():
        raise Fault(f"{', '.join(sorted(unknown))} is not covered")
    special = SPECIAL.get(opcode)
    if special is not None:
        return special(modifiers, operands, read)
    values = [read(operand, kind) for operand in operands]
    if "ftz" in modifiers:
        values = [flushed(value) for value in values]
    if opcode in ("max", "min"):
        result = _extreme(opcode, modifiers, values)
    elif opcode in LOGIC:
        result = LOGIC[opcode](*values)
    elif opcode == "not":
        result = ~values[0]
    elif opcode in SUMS and kind in FLOATS:
        result = (
            SUMS[opcode](*values) if kind in ("f32", "f64") else SUMS[opcode](*(v.astype(np.float64) for v in values))
        )
    elif opcode in ("add", "sub"):
        result = SUMS[opcode](*values)
    elif opcode == "fma":
        result = _fma(modifiers, values)
    elif opcode == "div":
        result = values[0] / values[1] if kind in FLOATS else _quotient(*values)[0]
    elif opcode == "rem":
        result = _quotient(*values)[1]
    elif opcode in FUNCTIONS:
        result = FUNCTIONS[opcode](*values)
    elif opcode == "copysign":
        result = np.copysign(values[1], values[0])
    elif opcode == "popc":
        return _bit_count(values[0]), "u32"
    elif opcode == "clz":
        return BITS[kind] - _bit_length(values[0]), "u32"
    elif opcode == "brev":
        result = _reversed(values[0])
    else:
        raise Fault("not covered")
    if "sat" in modifiers and kind in FLOATS:
        result = np.clip(np.nan_to_num(result, nan=0.0), 0, 1)
    return flushed(result) if "ftz" in modifiers else result, kind


def _extreme(opcode: str, modifiers: tuple[str, ...], values: list[Array]) -> Array:
    """Without .NaN the other operand wins over a NaN."""
    if modifiers[-1] in FLOATS and "NaN" not in modifiers:
        return (np.fmax if opcode == "max" else np.fmin)(*values)
    return (np.maximum if opcode == "max" else np.minimum)(*values)


def _fma(modifiers: tuple[str, ...], values: list[Array]) -> Array:
    """Products of float32 are exact in float64, and their sums are rounded there once before the last rounding."""
    kind = modifiers[-1]
    if kind == "f64":
        raise Fault("fma.f64 is not covered")
    first, second, third = (value.astype(np.float64) for value in values)
    exact = first * second + third
    if "rm" in modifiers:  # towards minus infinity
        if kind != "f32":
            raise Fault("not covered")
        rounded = exact.astype(np.float32)
        return np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return exact.astype(np.float32) if kind == "f32" else exact


def _quotient(first: Array, second: Array) -> tuple[Array, Array]:
    """Quotient towards zero and the remainder with the sign of the dividend."""
    if not second.all():
        raise Fault("a division by zero")
    remainder = np.fmod(first, second)
    return (first - remainder) // second, remainder


def _bit_length(values: Array) -> Array:
    length = np.zeros(values.shape, np.int64)
    for shift in range(8 * values.dtype.itemsize):
        length = np.where(values >> values.dtype.type(shift) != 0, shift + 1, length)
    return length


def _bit_count(values: Array) -> Array:
    one = values.dtype.type(1)
    bits = [(values >> values.dtype.type(i) & one).astype(np.uint32) for i in range(8 * values.dtype.itemsize)]
    return np.asarray(np.sum(bits, 0, dtype=np.uint32))


def _reversed(values: Array) -> Array:
    width = 8 * values.dtype.itemsize
    one = values.dtype.type(1)
    result = np.zeros_like(values)
    for i in range(width):
        result |= ((values >> values.dtype.type(i)) & one) << values.dtype.type(width - 1 - i)
    return result


def _multiply(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """mul and mad of integers: .lo, .hi and .wide."""
    kind = modifiers[-1]
    factors = [read(operand, kind) for operand in operands[:2]]
    if "wide" in modifiers:
        kind = f"{kind[0]}{2 * BITS[kind]}"
        result = factors[0].astype(TYPES[kind]) * factors[1].astype(TYPES[kind])
    elif "hi" in modifiers:
        result = _high(*factors)
    else:
        result = factors[0] * factors[1]
    return (result + read(operands[2], kind) if len(operands) == 3 else result), kind


def _high(first: Array, second: Array) -> Array:
    """The upper half of the product."""
    dtype = first.dtype
    width = 8 * dtype.itemsize
    if width < 64:
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        return (first.astype(wide) * second.astype(wide) >> wide.type(width)).astype(dtype)
    low, shift = np.uint64(2**32 - 1), np.uint64(32)
    a, b = first.view(np.uint64), second.view(np.uint64)
    cross = (a & low) * (b & low) >> shift
    middle = (a >> shift) * (b & low) + cross
    other = (a & low) * (b >> shift) + (middle & low)
    high = (a >> shift) * (b >> shift) + (middle >> shift) + (other >> shift)
    if dtype.kind == "i":
        high = high - np.where(first < 0, b, 0).astype(np.uint64) - np.where(second < 0, a, 0).astype(np.uint64)
    return high.view(dtype)


def _mul(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    if modifiers[-1] not in FLOATS:
        return _multiply(modifiers, operands, read)
    values = [read(operand, modifiers[-1]) for operand in operands]
    if "ftz" in modifiers:
        values = [flushed(value) for value in values]
    result = values[0] * values[1]
    return flushed(result) if "ftz" in modifiers else result, modifiers[-1]


def _select(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    kind = f"b{BITS[modifiers[-1]]}"
    return np.where(read(operands[2], "pred"), read(operands[0], kind), read(operands[1], kind)), kind


def _shift(right: bool) -> Callable[[tuple[str, ...], tuple[str, ...], Read], tuple[Array, str]]:
    def shift(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
        """By the width or more gives zero, or the sign."""
        kind = modifiers[-1]
        value, count = read(operands[0], kind), read(operands[1], "u32")
        width = BITS[kind]
        step = np.minimum(count, width - 1).astype(value.dtype)
        shifted = value >> step if right else value << step
        return (shifted if right and kind[0] == "s" else np.where(count < width, shifted, 0).astype(value.dtype)), kind

    return shift


def _funnel(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """shf: 32 bits of the 64 that the two operands make (the first is the lower half)."""
    low, high, count = (read(operand, "u32").astype(np.uint64) for operand in operands)
    count = count & np.uint64(31) if "wrap" in modifiers else np.minimum(count, np.uint64(32))
    both = high << np.uint64(32) | low
    result = both << count >> np.uint64(32) if "l" in modifiers else both >> count
    return result.astype(np.uint32), "b32"


def _extract(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """bfe: `length` bits from `start`; signed, the highest of them fills the rest. Bits beyond the value are its sign."""
    kind = modifiers[-1]
    value = read(operands[0], kind)
    start, length = (read(operand, "u32").astype(np.int64) & 0xFF for operand in operands[1:])
    width = BITS[kind]
    if (start + length > width).any() or (length == 0).any() or (length == width).any():
        raise Fault("a field that is empty or reaches beyond the register is not covered")
    dtype = value.dtype
    left = (width - start - length).astype(dtype)
    return value << left >> (width - length).astype(dtype), kind


def _insert(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """bfi: `length` bits of the first operand into the second at `start`."""
    kind = modifiers[-1]
    field, base = read(operands[0], kind), read(operands[1], kind)
    start, length = (read(operand, "u32").astype(np.int64) & 0xFF for operand in operands[2:])
    width = BITS[kind]
    if (start + length > width).any() or (length == width).any():
        raise Fault("a field that reaches beyond the register is not covered")
    dtype = base.dtype
    mask = ((np.uint64(1) << length.astype(np.uint64)) - np.uint64(1)).astype(dtype)
    return base & ~(mask << start.astype(dtype)) | (field & mask) << start.astype(dtype), kind


def _lookup(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """lop3: a table of eight bits says what three bits give."""
    a, b, c = (read(operand, "b32") for operand in operands[:3])
    table = int(operands[3], 0)
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    for row in range(8):
        if table >> row & 1:
            result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    return result, "b32"


def _permute(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """prmt: each byte is one of eight, or its sign bit eight times."""
    if len(modifiers) > 1:
        raise Fault("not covered")
    low, high, selector = (read(operand, "b32").astype(np.uint64) for operand in operands)
    both = high << np.uint64(32) | low
    result = np.zeros(both.shape, np.uint64)
    for byte in range(4):
        choice = selector >> np.uint64(4 * byte) & np.uint64(15)
        value = both >> (choice & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        sign = (value >> np.uint64(7)) * np.uint64(0xFF)
        result |= np.where(choice & np.uint64(8), sign, value) << np.uint64(8 * byte)
    return result.astype(np.uint32), "b32"


def _convert(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    target, source = (modifier for modifier in modifiers if modifier in BITS or modifier == "tf32")
    if target in ("f16x2", "bf16x2"):  # the first operand is the upper half
        _rounds(modifiers, "rn")
        values = np.stack([read(operand, source) for operand in operands[::-1]], -1)
        return (np.maximum(values, 0) if "relu" in modifiers else values), target
    value = read(operands[0], source)
    if "ftz" in modifiers:
        value = flushed(value)
    if target == "tf32":
        _rounds(modifiers, "rna")
        bits = np.ascontiguousarray(value).view(np.uint32)
        return np.where(
            np.isfinite(value), (bits.astype(np.uint64) + 0x1000 & 0xFFFFE000).astype(np.uint32), bits
        ), "b32"
    if target in FLOATS and source in FLOATS:
        if whole := {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}.keys() & set(modifiers):
            (rounding,) = whole
            value = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](value)
        elif BITS[target] < BITS[source]:
            _rounds(modifiers, "rn")
        result = value.astype(TYPES.get(target, np.dtype(np.float32)))
        if "sat" in modifiers:
            result = np.clip(np.nan_to_num(result, nan=0.0), 0, 1)
        return flushed(result) if "ftz" in modifiers else result, target
    if source in FLOATS:
        (rounding,) = {"rni", "rzi", "rmi", "rpi"} & set(modifiers)
        return to_integer(value, target, rounding), target
    if target in FLOATS:
        _rounds(modifiers, "rn")
        return value.astype(np.float32 if target == "f32" else np.float64), target
    if "sat" in modifiers:
        limits = np.iinfo(TYPES[target])
        wide = value.astype(object)
        return np.clip(wide, limits.min, limits.max).astype(TYPES[target]), target
    return value.astype(TYPES[target]), target


def _rounds(modifiers: tuple[str, ...], expected: str) -> None:
    if expected not in modifiers:
        raise Fault("another rounding is not covered")


def _compare(modifiers: tuple[str, ...], operands: tuple[str, ...], read: Read) -> tuple[Array, str]:
    """setp: also together with a predicate. Its second result, the opposite comparison, is made by the caller."""
    kind = modifiers[-1]
    first, second = (read(operand, kind) for operand in operands[:2])
    if "ftz" in modifiers:
        first, second = flushed(first), flushed(second)
    if modifiers[0] in ("ne", "eq") and kind not in FLOATS:
        result = first != second if modifiers[0] == "ne" else first == second
    else:
        result = COMPARISONS[modifiers[0]](first, second)
    if len(operands) == 3:
        result = LOGIC[modifiers[1]](result, read(operands[2], "pred"))
    return result, "pred"


ROUNDINGS = {"rn", "approx", "full", "ftz"}
KNOWN: dict[str, frozenset[str]] = {
    name: frozenset(modifiers)
    for names, modifiers in (
        (("add", "sub"), {"rn", "ftz", "sat"}),
        (("mul", "mad"), {"rn", "ftz", "lo", "hi", "wide"}),
        (("fma",), {"rn", "rm", "ftz", "sat"}),
        (("div", "sqrt", "rcp"), ROUNDINGS),
        (("rsqrt", "ex2", "lg2", "sin", "cos", "tanh"), {"approx", "ftz"}),
        (("neg", "abs"), {"ftz"}),
        (("max", "min"), {"ftz", "NaN"}),
        (("setp",), {*COMPARISONS, "and", "or", "xor", "ftz"}),
        (("shf",), {"l", "r", "wrap", "clamp"}),
        (("cvt",), {"rn", "rna", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu", "tf32"}),
    )
    for name in names
}
SPECIAL: dict[str, Callable[[tuple[str, ...], tuple[str, ...], Read], tuple[Array, str]]] = {
    "mul": _mul, "mad": _multiply, "selp": _select, "shl": _shift(right=False), "shr": _shift(right=True),
    "shf": _funnel, "bfe": _extract, "bfi": _insert, "lop3": _lookup, "prmt": _permute, "cvt": _convert,
    "setp": _compare,
}  # fmt: skip
