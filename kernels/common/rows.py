"""Rows of a tile: which tokens of which run they are, where those stand in memory, and loads and stores of them.

A run is what a program attends over: one sub-cluster of one head of one cluster. Runs are numbered with the head fastest, since the
heads of a token stand side by side in the model's projections, then the sub-cluster, then the cluster.
"""

import triton
import triton.language as tl


@triton.jit
def run_of(i_run, num_heads, num_blocks, size, longer):
    """Cluster and head (int64, they multiply strides), first token and length of runs; `size` tokens, the first `longer` one more."""
    i_head = i_run % num_heads
    i_block = i_run // num_heads % num_blocks
    i_cluster = i_run // (num_heads * num_blocks)
    start = i_block * size + tl.minimum(i_block, longer)
    length = size + (i_block < longer).to(tl.int32)
    return i_cluster.to(tl.int64), i_head.to(tl.int64), start, length


@triton.jit
def tokens_at(
    p_ids,
    stride_ids_b,
    stride_ids_t,
    p_valid,
    stride_valid_b,
    stride_valid_t,
    i_cluster,
    i_token,
    m_row,
    num_samples,
    GATHER: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Row of the tables (the token itself without `GATHER`), whether there is a token to read, and whether its id is no sample.

    Such an id must not be read; what it would bring is replaced by NaN, since a kernel cannot raise.
    """
    i_row = i_token.to(tl.int64)
    m_wrong = m_row & False
    if GATHER:
        i_row = tl.load(p_ids + i_cluster * stride_ids_b + i_row * stride_ids_t, mask=m_row, other=-1).to(tl.int64)
        m_wrong = i_row >= num_samples
        m_row = (i_row >= 0) & (i_row < num_samples)
    if MASKED:
        m_row = tl.load(p_valid + i_cluster * stride_valid_b + i_row * stride_valid_t, mask=m_row, other=0) != 0
    return i_row, m_row, m_wrong


@triton.jit
def load_rows(
    p_tensor, o_row, stride_d, m_row, m_wrong,
    D: tl.constexpr, BLOCK_D: tl.constexpr, GATHER: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """[rows, BLOCK_D]: 0 where there is nothing to read, whatever memory holds there. `WHOLE`: every row is there."""
    o_d = tl.arange(0, BLOCK_D)
    p_rows = p_tensor + o_row[:, None] + o_d[None, :].to(tl.int64) * stride_d
    if WHOLE and D == BLOCK_D:
        return tl.load(p_rows)
    m_all = m_row[:, None]
    if D != BLOCK_D:
        m_all = m_all & (o_d < D)[None, :]
    b_rows = tl.load(p_rows, mask=m_all, other=0.0)
    if GATHER:
        b_rows = tl.where(m_wrong[:, None], float("nan"), b_rows)
    return b_rows


@triton.jit
def store_rows(p_tensor, o_row, stride_d, m_row, b_rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The first D columns of [rows, BLOCK_D]."""
    o_d = tl.arange(0, BLOCK_D)
    p_rows = p_tensor + o_row[:, None] + o_d[None, :].to(tl.int64) * stride_d
    m_all = m_row[:, None]
    if D != BLOCK_D:
        m_all = m_all & (o_d < D)[None, :]
    tl.store(p_rows, b_rows.to(p_tensor.dtype.element_ty), mask=m_all)


@triton.jit
def softmax_rows(b_scores, factor):
    """Softmax of `factor` (of base 2) times the scores, [rows, columns] in float32; -inf is no column, and a row without any gives
    zeros."""
    b_max = tl.max(b_scores, 1)
    b_max = tl.where(b_max == -float("inf"), 0.0, b_max)
    # The difference first: it is exact near the maximum, where it matters, and nothing is multiplied that a fused
    # multiply-add could round otherwise in another kernel.
    b_exp = tl.exp2((b_scores - b_max[:, None]) * factor)
    b_sum = tl.sum(b_exp, 1)
    return b_exp * (1.0 / tl.where(b_sum == 0.0, 1.0, b_sum))[:, None]
