"""Forward.

    O = softmax(Z X_c^T) X_c    inside each of `num_runs` runs of Z [B, num_queries, D] and X_c [B, num_context, D]

Row j of run r of Z stands at r * stride_z_r + j * stride_z_q: runs need not follow each other. Columns of all tensors are contiguous.
With ids, Z or X_c is a table of `num_z` or `num_c` rows: row j of every run is row p_z_ids[b, j] of its run of Z, token n of the
context row p_c_ids[b, n]. -1 is no query (its answer is 0) or no context.
Scores are held transposed, context first: the context is then the operand with enough rows for a matrix instruction, however few
queries a tile has, and a tile of queries enters the products as it was loaded.
"""

import triton
import triton.language as tl

from intraformer_fast.kernels.common.rows import tokens_at

from .tiles import SIZES, run_of, softmax_columns


@triton.jit
def masked_scores(
    b_s, m_c, m_c_wrong, m_q, m_q_wrong, GATHER_C: tl.constexpr, GATHER_Q: tl.constexpr,
):  # fmt: skip
    """-inf where nobody asks or nothing is to be looked at, and NaN for an id that is no row, since a kernel cannot raise."""
    m_s = m_c[:, None]
    if GATHER_Q:
        m_s = m_s & m_q[None, :]
    b_s = tl.where(m_s, b_s, -float("inf"))
    if GATHER_C:
        b_s = tl.where(m_c_wrong[:, None], float("nan"), b_s)
    if GATHER_Q:
        b_s = tl.where(m_q_wrong[None, :], float("nan"), b_s)
    return b_s


@triton.jit(do_not_specialize=SIZES)
def chunked(
    p_out, stride_out_b, stride_out_q,
    p_z, stride_z_b, stride_z_r, stride_z_q, p_z_ids, stride_z_ids_b, stride_z_ids_q, num_z,
    p_c, stride_c_b, stride_c_n, p_c_ids, stride_c_ids_b, stride_c_ids_n, num_c,
    p_valid, stride_valid_b, stride_valid_n,
    num_queries, num_context, num_runs, num_parts,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: a tile of `BM` queries of one run (`num_parts` tiles a run), the width `BK` or `BV` columns at a time."""
    # Tiles of a run are neighbours in time: the first brings the context to the cache for the others, and for its own second pass.
    i_part = tl.program_id(0) % num_parts
    i_run = tl.program_id(0) // num_parts % num_runs
    i_b = (tl.program_id(0) // num_parts // num_runs).to(tl.int64)
    GATHER_C: tl.constexpr = p_c_ids is not None
    GATHER_Q: tl.constexpr = p_z_ids is not None
    q_start, q_size = run_of(i_run, num_queries, num_runs)
    c_start, c_size = run_of(i_run, num_context, num_runs)

    o_k = tl.arange(0, BK)
    o_v = tl.arange(0, BV)
    o_c = c_start + tl.arange(0, BN)
    i_c, m_c, m_c_wrong = tokens_at(
        p_c_ids, stride_c_ids_b, stride_c_ids_n, p_valid, stride_valid_b, stride_valid_n,
        i_b, o_c, o_c < c_start + c_size, num_c, GATHER_C, p_valid is not None,
    )  # fmt: skip
    o_q = i_part * BM + tl.arange(0, BM)
    m_run = o_q < q_size
    i_q, m_q, m_q_wrong = tokens_at(
        p_z_ids, stride_z_ids_b, stride_z_ids_q, None, 0, 0, i_b, o_q, m_run, num_z, GATHER_Q, False
    )
    p_c += i_b * stride_c_b + i_c[:, None] * stride_c_n
    p_z += i_b * stride_z_b + i_run.to(tl.int64) * stride_z_r + i_q[:, None] * stride_z_q
    p_out += i_b * stride_out_b + (q_start + o_q.to(tl.int64))[:, None] * stride_out_q

    # [BN, BM]
    b_s = tl.zeros([BN, BM], tl.float32)
    for k in range(0, D, BK):
        m_k = (k + o_k < D)[None, :]
        # [BN, BK], [BM, BK]
        b_c = tl.load(p_c + (k + o_k)[None, :], mask=m_c[:, None] & m_k, other=0.0)
        b_z = tl.load(p_z + (k + o_k)[None, :], mask=m_q[:, None] & m_k, other=0.0)
        b_s = tl.dot(b_c, tl.trans(b_z), b_s, input_precision=PRECISION)
    b_s = masked_scores(b_s, m_c, m_c_wrong, m_q, m_q_wrong, GATHER_C, GATHER_Q)
    b_p = softmax_columns(b_s).to(p_c.dtype.element_ty)
    for v in range(0, D, BV):
        m_v = (v + o_v < D)[None, :]
        # [BN, BV]
        b_c = tl.load(p_c + (v + o_v)[None, :], mask=m_c[:, None] & m_v, other=0.0)
        # [BV, BM]
        b_out = tl.dot(tl.trans(b_c), b_p, input_precision=PRECISION)
        tl.store(p_out + (v + o_v)[None, :], tl.trans(b_out).to(p_out.dtype.element_ty), mask=m_run[:, None] & m_v)
