"""Elementwise operations, reductions, gathers and conversions that Triton kernels are made of."""

import triton
import triton.language as tl


@triton.jit
def floats(p_x, p_y, p_out, BLOCK: tl.constexpr):
    """Rows of float32 results."""
    o = tl.arange(0, BLOCK)
    x = tl.load(p_x + o)
    y = tl.load(p_y + o)
    tl.store(p_out + 0 * BLOCK + o, x + y)
    tl.store(p_out + 1 * BLOCK + o, x * y - x)
    tl.store(p_out + 2 * BLOCK + o, x / y)
    tl.store(p_out + 3 * BLOCK + o, tl.exp(x))
    tl.store(p_out + 4 * BLOCK + o, tl.log(tl.abs(y)))
    tl.store(p_out + 5 * BLOCK + o, tl.sqrt(tl.abs(x)))
    tl.store(p_out + 6 * BLOCK + o, tl.rsqrt(tl.abs(y)))
    tl.store(p_out + 7 * BLOCK + o, tl.maximum(x, y))
    tl.store(p_out + 8 * BLOCK + o, tl.minimum(x, y))
    tl.store(p_out + 9 * BLOCK + o, tl.where(x < y, x, -y))
    tl.store(p_out + 10 * BLOCK + o, tl.floor(x))
    tl.store(p_out + 11 * BLOCK + o, tl.ceil(y))
    tl.store(p_out + 12 * BLOCK + o, tl.sigmoid(x))
    tl.store(p_out + 13 * BLOCK + o, tl.fma(x, y, x))
    tl.store(p_out + 14 * BLOCK + o, tl.erf(x))
    tl.store(p_out + 15 * BLOCK + o, tl.exp2(x) + tl.log2(tl.abs(y)))


@triton.jit
def rounded(p_x, p_half, p_brain, p_back, BLOCK: tl.constexpr):
    """To fp16 and bf16 and back, with arithmetic in them."""
    o = tl.arange(0, BLOCK)
    x = tl.load(p_x + o)
    half = x.to(tl.float16)
    brain = x.to(tl.bfloat16)
    tl.store(p_half + o, half * half + half)
    tl.store(p_brain + o, brain * brain + brain)
    tl.store(p_back + o, half.to(tl.float32) + brain.to(tl.float32))


@triton.jit
def integers(p_x, p_y, p_out, BLOCK: tl.constexpr):
    """Rows of results of the integers' own type."""
    o = tl.arange(0, BLOCK)
    x = tl.load(p_x + o)
    y = tl.load(p_y + o)
    tl.store(p_out + 0 * BLOCK + o, x + y)
    tl.store(p_out + 1 * BLOCK + o, x * y)
    tl.store(p_out + 2 * BLOCK + o, x // y)
    tl.store(p_out + 3 * BLOCK + o, x % y)
    tl.store(p_out + 4 * BLOCK + o, x & y)
    tl.store(p_out + 5 * BLOCK + o, x | y)
    tl.store(p_out + 6 * BLOCK + o, x ^ y)
    tl.store(p_out + 7 * BLOCK + o, x << 3)
    tl.store(p_out + 8 * BLOCK + o, x >> 2)
    tl.store(p_out + 9 * BLOCK + o, tl.maximum(x, y))
    tl.store(p_out + 10 * BLOCK + o, tl.where(x > y, x, y + 1))
    tl.store(p_out + 11 * BLOCK + o, x // 7)
    tl.store(p_out + 12 * BLOCK + o, tl.abs(x))
    tl.store(p_out + 13 * BLOCK + o, x.to(tl.float32).to(tl.int32).to(p_out.dtype.element_ty))
    tl.store(p_out + 14 * BLOCK + o, x.to(tl.int8).to(p_out.dtype.element_ty))


@triton.jit
def gather(p_table, p_ids, p_out, stride_n, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of a table by int64 ids; -1 gives zeros."""
    o_r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, WIDTH)
    ids = tl.load(p_ids + o_r)
    mask = (ids >= 0)[:, None] & (o_d < width)[None, :]
    rows = tl.load(p_table + ids[:, None] * stride_n + o_d[None, :], mask, 0.0)
    tl.store(p_out + o_r[:, None] * width + o_d[None, :], rows, (o_d < width)[None, :])


@triton.jit
def reduce(p_x, p_sum, p_max, p_arg, p_all, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    o_r = tl.arange(0, ROWS)
    o_d = tl.arange(0, WIDTH)
    x = tl.load(p_x + o_r[:, None] * WIDTH + o_d[None, :])
    tl.store(p_sum + o_r, tl.sum(x, 1))
    tl.store(p_max + o_d, tl.max(x, 0))
    tl.store(p_arg + o_r, tl.argmax(x, 1))
    tl.store(p_all, tl.sum(tl.sum(x, 1), 0))


@triton.jit
def product(p_a, p_b, p_c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    """C = A B with the operands in any of their layouts."""
    o_m = tl.arange(0, M)
    o_n = tl.arange(0, N)
    o_k = tl.arange(0, K)
    a = tl.load(p_a + o_m[:, None] * K + o_k[None, :])
    b = tl.load(p_b + o_k[:, None] * N + o_n[None, :])
    tl.store(p_c + o_m[:, None] * N + o_n[None, :], tl.dot(a, b, input_precision=PRECISION))


@triton.jit
def scan_while(p_x, p_out, limit, BLOCK: tl.constexpr):
    """A loop whose trips depend on what is loaded."""
    i = 0
    total = tl.load(p_x)
    while (total < limit) & (i < 10):
        i += 1
        total += tl.load(p_x + i)
    tl.store(p_out, total)
