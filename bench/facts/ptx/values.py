"""How the bits of a register are read as a type of PTX, and values are rounded back to bits."""

from typing import Any, TypeAlias

import numpy as np

from .program import Fault

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

TYPES = {
    f"{kind}{bits}": np.dtype(f"{numpy}{bits // 8}")
    for kind, numpy in (("u", "u"), ("b", "u"), ("s", "i"), ("f", "f"))
    for bits in (8, 16, 32, 64)
    if (kind, bits) != ("f", 8)
}
BITS = {name: 8 * dtype.itemsize for name, dtype in TYPES.items()} | {"bf16": 16, "f16x2": 32, "bf16x2": 32, "pred": 1}
UNSIGNED = {bits: np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)} | {1: np.dtype(bool)}
FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64")


def decode(bits: Array, kind: str) -> Array:
    """The values of a type; a bf16 becomes a float32, and a packed pair a last axis of two."""
    if kind in TYPES:
        return bits.view(TYPES[kind])
    if kind == "pred":
        return bits
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind in ("f16x2", "bf16x2"):
        pair = np.ascontiguousarray(bits).view(np.uint16).reshape(*bits.shape, 2)
        return decode(pair, kind[:-2])
    raise Fault(f"the type {kind} is not covered")


def encode(values: Array, kind: str) -> Array:
    """The bits of values, rounded to the nearest and to even; integers wrap around."""
    if kind == "pred":
        return values.astype(bool)
    if kind == "bf16":
        return bfloat16(values)
    if kind in ("f16x2", "bf16x2"):
        halves = np.ascontiguousarray(encode(values, kind[:-2]))
        return halves.view(np.uint32).reshape(halves.shape[:-1])
    if kind not in TYPES:
        raise Fault(f"the type {kind} is not covered")
    dtype = TYPES[kind]
    return np.ascontiguousarray(values.astype(dtype)).view(UNSIGNED[8 * dtype.itemsize])


def bfloat16(values: Array) -> Array:
    """Bits of the nearest bfloat16, of float64 through float32 as exactly as float32 holds it; every NaN is 0x7FFF."""
    single = np.ascontiguousarray(values.astype(np.float32))
    bits = single.view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FFF), rounded)


def flushed(values: Array) -> Array:
    """What .ftz makes of float32: zero of the same sign for what is subnormal."""
    if values.dtype != np.float32:
        return values
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


def to_integer(values: Array, kind: str, rounding: str) -> Array:
    """A float as an integer: rounded as asked, kept within the range, NaN is zero."""
    step = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
    dtype = TYPES[kind]
    limits = np.iinfo(dtype)
    whole = np.nan_to_num(step(values.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    inside = (whole > float(limits.min)) & (whole < float(limits.max))
    edge = np.where(whole > 0, limits.max, limits.min).astype(dtype)
    return np.where(inside, np.where(inside, whole, 0).astype(dtype), edge)
