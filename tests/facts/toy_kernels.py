"""Kernels that have what Triton's attention kernels have: masks, strides, tensor cores, softmax, a pipelined loop."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attention(p_q, p_k, p_v, p_o, stride_b, stride_s, stride_d, length, scale, S: tl.constexpr, D: tl.constexpr):
    """One tile a program: softmax(q k^T scale) v of `length` <= S rows."""
    i_b = tl.program_id(0).to(tl.int64)
    o_s = tl.arange(0, S)
    o_d = tl.arange(0, D)
    m_s = o_s < length
    o = i_b * stride_b + o_s[:, None] * stride_s + o_d[None, :] * stride_d
    b_q = tl.load(p_q + o, m_s[:, None], 0.0)
    b_k = tl.load(p_k + o, m_s[:, None], 0.0)
    b_v = tl.load(p_v + o, m_s[:, None], 0.0)
    b_s = tl.dot(b_q, tl.trans(b_k)) * (scale * LOG2_E)
    b_s = tl.where(m_s[None, :], b_s, float("-inf"))
    b_p = tl.exp2(b_s - tl.max(b_s, 1)[:, None])
    b_o = tl.dot(b_p.to(b_v.dtype), b_v) / tl.sum(b_p, 1)[:, None]
    tl.store(p_o + o, b_o.to(p_o.dtype.element_ty), m_s[:, None])


@triton.jit
def attention_loop(
    p_q, p_k, p_v, p_o, stride_b, stride_s, length, scale, S: tl.constexpr, D: tl.constexpr, N: tl.constexpr
):
    """S rows a program, the keys in tiles of N with a running maximum."""
    i_b = tl.program_id(1).to(tl.int64)
    o_m = tl.program_id(0) * S + tl.arange(0, S)
    o_d = tl.arange(0, D)
    m_m = o_m < length
    base = i_b * stride_b
    o = base + o_m[:, None] * stride_s + o_d[None, :]
    b_q = tl.load(p_q + o, m_m[:, None], 0.0)
    b_max = tl.full([S], float("-inf"), tl.float32)
    b_sum = tl.zeros([S], tl.float32)
    b_o = tl.zeros([S, D], tl.float32)
    for start in range(0, length, N):
        o_n = start + tl.arange(0, N)
        m_n = o_n < length
        o_k = base + o_n[:, None] * stride_s + o_d[None, :]
        b_k = tl.load(p_k + o_k, m_n[:, None], 0.0)
        b_v = tl.load(p_v + o_k, m_n[:, None], 0.0)
        b_s = tl.dot(b_q, tl.trans(b_k)) * (scale * LOG2_E)
        b_s = tl.where(m_n[None, :], b_s, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_new[:, None])
        b_old = tl.exp2(b_max - b_new)
        b_sum = b_sum * b_old + tl.sum(b_p, 1)
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * b_old[:, None])
        b_max = b_new
    tl.store(p_o + o, (b_o / b_sum[:, None]).to(p_o.dtype.element_ty), m_m[:, None])


@triton.jit
def add(p_x, p_y, p_z, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    tl.store(p_z + o, tl.load(p_x + o, m, 0.0) + tl.load(p_y + o, m, 0.0), m)
