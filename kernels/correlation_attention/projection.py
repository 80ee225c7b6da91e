"""Products with one matrix a stream, all streams in one launch: Z = X W_m, and dW_m = X^T G.

Tokens of a stream are the same run of every cluster, so that they are no matrix in memory: a tile takes its rows from as many
clusters as it needs. Where there is one matrix for all tokens, cuBLAS does it.
"""

import triton
import triton.language as tl

from .tiles import run_of


@triton.jit
def rows_at(o_row, start, size, stride_b, stride_n):
    """Where row `o_row` of a stream stands: token start + o_row % size of cluster o_row // size."""
    o_b = (o_row // size).to(tl.int64)
    return o_b * stride_b + (start + o_row % size).to(tl.int64) * stride_n


@triton.jit(do_not_specialize=["batch", "num_tokens", "num_streams", "num_tiles"])
def project(
    p_out, stride_out_b, stride_out_n,
    p_x, stride_x_b, stride_x_n,
    p_w, stride_w_m, stride_w_i, stride_w_o,
    batch, num_tokens, num_streams, num_tiles,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: [BM, BN] of the tokens of one stream times its matrix."""
    num_columns: tl.constexpr = (D + BN - 1) // BN
    i_column = tl.program_id(0) % num_columns
    i_tile = tl.program_id(0) // num_columns % num_tiles
    i_stream = tl.program_id(0) // num_columns // num_tiles
    start, size = run_of(i_stream, num_tokens, num_streams)
    o_row = i_tile * BM + tl.arange(0, BM)
    m_row = (o_row < batch * size)[:, None]
    size = tl.maximum(size, 1)
    o_n = i_column * BN + tl.arange(0, BN)
    m_n = (o_n < D)[None, :]
    o_k = tl.arange(0, BK)
    p_x += rows_at(o_row, start, size, stride_x_b, stride_x_n)[:, None]
    p_w += i_stream.to(tl.int64) * stride_w_m + o_n[None, :].to(tl.int64) * stride_w_o
    # [BM, BN]
    b_out = tl.zeros([BM, BN], tl.float32)
    for k in range(0, D, BK):
        # [BM, BK], [BK, BN]
        b_x = tl.load(p_x + (k + o_k)[None, :], mask=m_row & (k + o_k < D)[None, :], other=0.0)
        b_w = tl.load(p_w + (k + o_k)[:, None].to(tl.int64) * stride_w_i, mask=(k + o_k < D)[:, None] & m_n, other=0.0)
        b_out = tl.dot(b_x, b_w, b_out)
    p_out += rows_at(o_row, start, size, stride_out_b, stride_out_n)[:, None] + o_n[None, :]
    tl.store(p_out, b_out.to(p_out.dtype.element_ty), mask=m_row & m_n)


@triton.jit(do_not_specialize=["batch", "num_tokens", "num_streams", "rows_of_part"])
def weight_gradient(
    p_out,
    p_x, stride_x_b, stride_x_n,
    p_g, stride_g_b, stride_g_n,
    batch, num_tokens, num_streams, rows_of_part,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: [BM, BN] of X^T G over `rows_of_part` tokens of one stream; out [num_parts, num_streams, D, D], to be summed."""
    num_columns: tl.constexpr = (D + BN - 1) // BN
    num_rows: tl.constexpr = (D + BM - 1) // BM
    i_column = tl.program_id(0) % num_columns
    i_row = tl.program_id(0) // num_columns % num_rows
    # [num_parts, num_streams]
    i_out = tl.program_id(0) // num_columns // num_rows
    i_stream = i_out % num_streams
    first = i_out // num_streams * rows_of_part
    start, size = run_of(i_stream, num_tokens, num_streams)
    last = tl.minimum(first + rows_of_part, batch * size)
    size = tl.maximum(size, 1)
    o_m = i_row * BM + tl.arange(0, BM)
    o_n = i_column * BN + tl.arange(0, BN)
    # [BM, BN]
    b_out = tl.zeros([BM, BN], tl.float32)
    for row in range(first, last, BK):
        o_row = row + tl.arange(0, BK)
        m_row = (o_row < last)[:, None]
        # [BK, BM], [BK, BN]
        p_xk = p_x + rows_at(o_row, start, size, stride_x_b, stride_x_n)[:, None] + o_m[None, :]
        p_gk = p_g + rows_at(o_row, start, size, stride_g_b, stride_g_n)[:, None] + o_n[None, :]
        b_x = tl.load(p_xk, mask=m_row & (o_m < D)[None, :], other=0.0)
        b_g = tl.load(p_gk, mask=m_row & (o_n < D)[None, :], other=0.0)
        b_out = tl.dot(tl.trans(b_x), b_g, b_out)
    p_out += i_out.to(tl.int64) * D * D + o_m[:, None] * D + o_n[None, :]
    tl.store(p_out, b_out, mask=(o_m < D)[:, None] & (o_n < D)[None, :])
