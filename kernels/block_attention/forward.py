"""Forward: `tile` where a whole run fits a tile, `loop` over tiles of keys where it does not."""

import triton
import triton.language as tl

from intraformer_fast.kernels.common.rows import load_rows, run_of, softmax_rows, store_rows, tokens_at


@triton.jit
def tile(
    p_out, stride_out_b, stride_out_h, stride_out_t, stride_out_d,
    p_q, stride_q_b, stride_q_h, stride_q_t, stride_q_d,
    p_k, stride_k_b, stride_k_h, stride_k_t, stride_k_d,
    p_v, stride_v_b, stride_v_h, stride_v_t, stride_v_d,
    p_valid, stride_valid_b, stride_valid_t,
    p_ids, stride_ids_b, stride_ids_t,
    num_samples, num_runs, num_heads, num_blocks, size, longer, longest, scale, sign, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr,
    GATHER: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: `RUNS` whole runs, of at most `longest` tokens each, one after the other in a tile of `ROWS` rows."""
    i_row = tl.arange(0, ROWS)
    i_run = tl.program_id(0)
    i_local = 0
    if RUNS > 1:
        i_local = i_row // longest
        i_run = i_run * RUNS + i_local
    i_cluster, i_head, start, length = run_of(i_run, num_heads, num_blocks, size, longer)
    i_in_run = i_row - i_local * longest
    m_row = (i_in_run < length) & (i_local < RUNS) & (i_run < num_runs)
    i_token = start + i_in_run
    i_source, m_token, m_wrong = tokens_at(
        p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
        i_cluster, i_token, m_row, num_samples, GATHER, MASKED,
    )  # fmt: skip

    o_q = i_cluster * stride_q_b + i_head * stride_q_h + i_source * stride_q_t
    o_k = i_cluster * stride_k_b + i_head * stride_k_h + i_source * stride_k_t
    o_v = i_cluster * stride_v_b + i_head * stride_v_h + i_source * stride_v_t
    b_q = load_rows(p_q, o_q, stride_q_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    b_k = load_rows(p_k, o_k, stride_k_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    b_v = load_rows(p_v, o_v, stride_v_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)

    # [ROWS, ROWS]
    b_scores = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * sign
    if not WHOLE:
        m_key = (m_token | m_wrong)[None, :]
        if RUNS > 1:
            m_key = m_key & (i_local[:, None] == i_local[None, :])
        b_scores = tl.where(m_key, b_scores, -float("inf"))
    b_p = softmax_rows(b_scores, factor)
    # [ROWS, BLOCK_D]
    b_out = tl.dot(b_p.to(b_v.dtype), b_v, input_precision=PRECISION)
    b_out = tl.where((m_token | m_wrong)[:, None], b_out, 0.0)
    o_out = i_cluster * stride_out_b + i_head * stride_out_h + i_token.to(tl.int64) * stride_out_t
    store_rows(p_out, o_out, stride_out_d, m_row, b_out, D, BLOCK_D)


@triton.jit
def loop(
    p_out, stride_out_b, stride_out_h, stride_out_t, stride_out_d,
    p_q, stride_q_b, stride_q_h, stride_q_t, stride_q_d,
    p_k, stride_k_b, stride_k_h, stride_k_t, stride_k_d,
    p_v, stride_v_b, stride_v_h, stride_v_t, stride_v_d,
    p_valid, stride_valid_b, stride_valid_t,
    p_ids, stride_ids_b, stride_ids_t,
    num_samples, num_heads, num_blocks, size, longer, num_tiles, scale, sign, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    GATHER: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS` queries of one run, over its keys `KEYS` at a time, with a running maximum and sum."""
    i_tile = tl.program_id(0) % num_tiles
    i_cluster, i_head, start, length = run_of(tl.program_id(0) // num_tiles, num_heads, num_blocks, size, longer)
    i_in_run = i_tile * ROWS + tl.arange(0, ROWS)
    m_row = i_in_run < length
    i_token = start + i_in_run
    i_source, m_token, m_wrong = tokens_at(
        p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
        i_cluster, i_token, m_row, num_samples, GATHER, MASKED,
    )  # fmt: skip
    o_q = i_cluster * stride_q_b + i_head * stride_q_h + i_source * stride_q_t
    b_q = load_rows(p_q, o_q, stride_q_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    p_k += i_cluster * stride_k_b + i_head * stride_k_h
    p_v += i_cluster * stride_v_b + i_head * stride_v_h

    b_max = tl.full([ROWS], -float("inf"), tl.float32)
    b_sum = tl.zeros([ROWS], tl.float32)
    b_out = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in range(0, length, KEYS):
        i_key = first + tl.arange(0, KEYS)
        i_from, m_key, m_bad = tokens_at(
            p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
            i_cluster, start + i_key, i_key < length, num_samples, GATHER, MASKED,
        )  # fmt: skip
        b_k = load_rows(p_k, i_from * stride_k_t, stride_k_d, m_key, m_bad, D, BLOCK_D, GATHER, WHOLE)
        b_v = load_rows(p_v, i_from * stride_v_t, stride_v_d, m_key, m_bad, D, BLOCK_D, GATHER, WHOLE)
        # [ROWS, KEYS]
        b_scores = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * sign
        if not WHOLE:
            b_scores = tl.where((m_key | m_bad)[None, :], b_scores, -float("inf"))
        b_new = tl.maximum(b_max, tl.max(b_scores, 1))
        # Before the first valid key the maximum is -inf, and -inf less -inf would be NaN.
        b_safe = tl.where(b_new == -float("inf"), 0.0, b_new)
        b_exp = tl.exp2((b_scores - b_safe[:, None]) * factor)
        b_shrink = tl.exp2((b_max - b_safe) * factor)
        b_sum = b_sum * b_shrink + tl.sum(b_exp, 1)
        b_out = tl.dot(b_exp.to(b_v.dtype), b_v, b_out * b_shrink[:, None], input_precision=PRECISION)
        b_max = b_new

    b_out = b_out * (1.0 / tl.where(b_sum == 0.0, 1.0, b_sum))[:, None]
    b_out = tl.where((m_token | m_wrong)[:, None], b_out, 0.0)
    o_out = i_cluster * stride_out_b + i_head * stride_out_h + i_token.to(tl.int64) * stride_out_t
    store_rows(p_out, o_out, stride_out_d, m_row, b_out, D, BLOCK_D)
