"""Backward: `tile` where a whole run fits a tile; `queries`, then `keys`, where it does not.

P is computed anew, and delta = rowsum(P * dP) from it, so nothing but the inputs is kept from the forward pass, and a row of dS sums to
nothing even where half precision rounds the output. No program writes what another does: no atomics, the same bits every time.
"""

import triton
import triton.language as tl

from intraformer_fast.kernels.common.rows import load_rows, run_of, softmax_rows, store_rows, tokens_at


@triton.jit
def tile(
    p_grad_q, stride_grad_q_b, stride_grad_q_h, stride_grad_q_t, stride_grad_q_d,
    p_grad_k, stride_grad_k_b, stride_grad_k_h, stride_grad_k_t, stride_grad_k_d,
    p_grad_v, stride_grad_v_b, stride_grad_v_h, stride_grad_v_t, stride_grad_v_d,
    p_grad, stride_grad_b, stride_grad_h, stride_grad_t, stride_grad_d,
    p_q, stride_q_b, stride_q_h, stride_q_t, stride_q_d,
    p_k, stride_k_b, stride_k_h, stride_k_t, stride_k_d,
    p_v, stride_v_b, stride_v_h, stride_v_t, stride_v_d,
    p_valid, stride_valid_b, stride_valid_t,
    p_ids, stride_ids_b, stride_ids_t,
    num_samples, num_runs, num_heads, num_blocks, size, longer, longest, scale, sign, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr,
    GATHER: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: all three gradients of `RUNS` whole runs, laid out as in the forward pass."""
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
    i_token = i_token.to(tl.int64)

    o_q = i_cluster * stride_q_b + i_head * stride_q_h + i_source * stride_q_t
    o_k = i_cluster * stride_k_b + i_head * stride_k_h + i_source * stride_k_t
    o_v = i_cluster * stride_v_b + i_head * stride_v_h + i_source * stride_v_t
    o_grad = i_cluster * stride_grad_b + i_head * stride_grad_h + i_token * stride_grad_t
    b_q = load_rows(p_q, o_q, stride_q_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    b_k = load_rows(p_k, o_k, stride_k_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    b_v = load_rows(p_v, o_v, stride_v_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    b_grad = load_rows(p_grad, o_grad, stride_grad_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)

    # [ROWS, ROWS]
    b_scores = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * sign
    if not WHOLE:
        m_key = (m_token | m_wrong)[None, :]
        if RUNS > 1:
            m_key = m_key & (i_local[:, None] == i_local[None, :])
        b_scores = tl.where(m_key, b_scores, -float("inf"))
    b_p = softmax_rows(b_scores, factor)

    # [ROWS, BLOCK_D]
    b_grad_v = tl.dot(tl.trans(b_p.to(b_grad.dtype)), b_grad, input_precision=PRECISION)
    o_grad_v = i_cluster * stride_grad_v_b + i_head * stride_grad_v_h + i_token * stride_grad_v_t
    store_rows(p_grad_v, o_grad_v, stride_grad_v_d, m_row, b_grad_v, D, BLOCK_D)

    # [ROWS, ROWS]
    b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
    b_ds = (b_p * (b_dp - tl.sum(b_p * b_dp, 1)[:, None])).to(b_q.dtype)

    # [ROWS, BLOCK_D]
    b_grad_k = tl.dot(tl.trans(b_ds), b_q, input_precision=PRECISION) * scale
    o_grad_k = i_cluster * stride_grad_k_b + i_head * stride_grad_k_h + i_token * stride_grad_k_t
    store_rows(p_grad_k, o_grad_k, stride_grad_k_d, m_row, b_grad_k, D, BLOCK_D)
    b_grad_q = tl.dot(b_ds, b_k, input_precision=PRECISION) * scale
    o_grad_q = i_cluster * stride_grad_q_b + i_head * stride_grad_q_h + i_token * stride_grad_q_t
    store_rows(p_grad_q, o_grad_q, stride_grad_q_d, m_row, b_grad_q, D, BLOCK_D)


@triton.jit
def queries(
    p_statistics, stride_statistics,
    p_grad_q, stride_grad_q_b, stride_grad_q_h, stride_grad_q_t, stride_grad_q_d,
    p_grad, stride_grad_b, stride_grad_h, stride_grad_t, stride_grad_d,
    p_q, stride_q_b, stride_q_h, stride_q_t, stride_q_d,
    p_k, stride_k_b, stride_k_h, stride_k_t, stride_k_d,
    p_v, stride_v_b, stride_v_h, stride_v_t, stride_v_d,
    p_valid, stride_valid_b, stride_valid_t,
    p_ids, stride_ids_b, stride_ids_t,
    num_samples, num_tokens, num_heads, num_blocks, size, longer, num_tiles, scale, sign, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, ALL_KEYS: tl.constexpr,
    GATHER: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of `ROWS` queries of one run, and of each what `keys` needs: the maximum of its scores, the inverse of
    its sum of exponentials, and delta. `ALL_KEYS`: a run has at most `KEYS` of them, and one look at them is enough; else two."""
    i_tile = tl.program_id(0) % num_tiles
    i_cluster, i_head, start, length = run_of(tl.program_id(0) // num_tiles, num_heads, num_blocks, size, longer)
    i_in_run = i_tile * ROWS + tl.arange(0, ROWS)
    m_row = i_in_run < length
    i_token = start + i_in_run
    i_source, m_token, m_wrong = tokens_at(
        p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
        i_cluster, i_token, m_row, num_samples, GATHER, MASKED,
    )  # fmt: skip
    i_token = i_token.to(tl.int64)
    o_q = i_cluster * stride_q_b + i_head * stride_q_h + i_source * stride_q_t
    o_grad = i_cluster * stride_grad_b + i_head * stride_grad_h + i_token * stride_grad_t
    b_q = load_rows(p_q, o_q, stride_q_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    b_grad = load_rows(p_grad, o_grad, stride_grad_d, m_token, m_wrong, D, BLOCK_D, GATHER, WHOLE)
    p_k += i_cluster * stride_k_b + i_head * stride_k_h
    p_v += i_cluster * stride_v_b + i_head * stride_v_h

    b_max = tl.full([ROWS], -float("inf"), tl.float32)
    b_sum = tl.zeros([ROWS], tl.float32)
    b_delta = tl.zeros([ROWS], tl.float32)
    b_grad_q = tl.zeros([ROWS, BLOCK_D], tl.float32)
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
        b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
        b_new = tl.maximum(b_max, tl.max(b_scores, 1))
        b_safe = tl.where(b_new == -float("inf"), 0.0, b_new)
        b_exp = tl.exp2((b_scores - b_safe[:, None]) * factor)
        b_shrink = tl.exp2((b_max - b_safe) * factor)
        b_sum = b_sum * b_shrink + tl.sum(b_exp, 1)
        b_delta = b_delta * b_shrink + tl.sum(b_exp * b_dp, 1)
        b_max = b_new
        if ALL_KEYS:
            b_inverse = 1.0 / tl.where(b_sum == 0.0, 1.0, b_sum)
            b_ds = b_exp * b_inverse[:, None] * (b_dp - (b_delta * b_inverse)[:, None])
            b_grad_q = tl.dot(b_ds.to(b_k.dtype), b_k, b_grad_q, input_precision=PRECISION)

    b_max = tl.where(b_max == -float("inf"), 0.0, b_max)
    b_inverse = 1.0 / tl.where(b_sum == 0.0, 1.0, b_sum)
    b_delta = b_delta * b_inverse
    o_row = (i_cluster * num_heads + i_head) * num_tokens + i_token
    tl.store(p_statistics + o_row, b_max, mask=m_row)
    tl.store(p_statistics + stride_statistics + o_row, b_inverse, mask=m_row)
    tl.store(p_statistics + 2 * stride_statistics + o_row, b_delta, mask=m_row)

    if not ALL_KEYS:
        for first in range(0, length, KEYS):
            i_key = first + tl.arange(0, KEYS)
            i_from, m_key, m_bad = tokens_at(
                p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
                i_cluster, start + i_key, i_key < length, num_samples, GATHER, MASKED,
            )  # fmt: skip
            b_k = load_rows(p_k, i_from * stride_k_t, stride_k_d, m_key, m_bad, D, BLOCK_D, GATHER, WHOLE)
            b_v = load_rows(p_v, i_from * stride_v_t, stride_v_d, m_key, m_bad, D, BLOCK_D, GATHER, WHOLE)
            b_scores = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * sign
            if not WHOLE:
                b_scores = tl.where((m_key | m_bad)[None, :], b_scores, -float("inf"))
            b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
            b_p = tl.exp2((b_scores - b_max[:, None]) * factor) * b_inverse[:, None]
            b_ds = b_p * (b_dp - b_delta[:, None])
            b_grad_q = tl.dot(b_ds.to(b_k.dtype), b_k, b_grad_q, input_precision=PRECISION)

    o_grad_q = i_cluster * stride_grad_q_b + i_head * stride_grad_q_h + i_token * stride_grad_q_t
    store_rows(p_grad_q, o_grad_q, stride_grad_q_d, m_row, b_grad_q * scale, D, BLOCK_D)


@triton.jit
def keys(
    p_statistics, stride_statistics,
    p_grad_k, stride_grad_k_b, stride_grad_k_h, stride_grad_k_t, stride_grad_k_d,
    p_grad_v, stride_grad_v_b, stride_grad_v_h, stride_grad_v_t, stride_grad_v_d,
    p_grad, stride_grad_b, stride_grad_h, stride_grad_t, stride_grad_d,
    p_q, stride_q_b, stride_q_h, stride_q_t, stride_q_d,
    p_k, stride_k_b, stride_k_h, stride_k_t, stride_k_d,
    p_v, stride_v_b, stride_v_h, stride_v_t, stride_v_d,
    p_valid, stride_valid_b, stride_valid_t,
    p_ids, stride_ids_b, stride_ids_t,
    num_samples, num_tokens, num_heads, num_blocks, size, longer, num_tiles, scale, sign, factor,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    GATHER: tl.constexpr, MASKED: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of `KEYS` keys and values of one run, over its queries `ROWS` at a time. Scores stand transposed, as
    the products with the gradient and the queries want them."""
    i_tile = tl.program_id(0) % num_tiles
    i_cluster, i_head, start, length = run_of(tl.program_id(0) // num_tiles, num_heads, num_blocks, size, longer)
    i_in_run = i_tile * KEYS + tl.arange(0, KEYS)
    m_row = i_in_run < length
    i_token = start + i_in_run
    i_source, m_key, m_bad = tokens_at(
        p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
        i_cluster, i_token, m_row, num_samples, GATHER, MASKED,
    )  # fmt: skip
    i_token = i_token.to(tl.int64)
    o_k = i_cluster * stride_k_b + i_head * stride_k_h + i_source * stride_k_t
    o_v = i_cluster * stride_v_b + i_head * stride_v_h + i_source * stride_v_t
    b_k = load_rows(p_k, o_k, stride_k_d, m_key, m_bad, D, BLOCK_D, GATHER, WHOLE)
    b_v = load_rows(p_v, o_v, stride_v_d, m_key, m_bad, D, BLOCK_D, GATHER, WHOLE)
    p_q += i_cluster * stride_q_b + i_head * stride_q_h
    p_grad += i_cluster * stride_grad_b + i_head * stride_grad_h
    p_statistics += (i_cluster * num_heads + i_head) * num_tokens

    b_grad_k = tl.zeros([KEYS, BLOCK_D], tl.float32)
    b_grad_v = tl.zeros([KEYS, BLOCK_D], tl.float32)
    for first in range(0, length, ROWS):
        i_query = first + tl.arange(0, ROWS)
        m_in = i_query < length
        i_at = (start + i_query).to(tl.int64)
        i_from, m_query, m_wrong = tokens_at(
            p_ids, stride_ids_b, stride_ids_t, p_valid, stride_valid_b, stride_valid_t,
            i_cluster, start + i_query, m_in, num_samples, GATHER, MASKED,
        )  # fmt: skip
        b_q = load_rows(p_q, i_from * stride_q_t, stride_q_d, m_query, m_wrong, D, BLOCK_D, GATHER, WHOLE)
        b_grad = load_rows(p_grad, i_at * stride_grad_t, stride_grad_d, m_query, m_wrong, D, BLOCK_D, GATHER, WHOLE)
        b_max = tl.load(p_statistics + i_at, mask=m_in, other=0.0)
        b_inverse = tl.load(p_statistics + stride_statistics + i_at, mask=m_in, other=0.0)
        b_delta = tl.load(p_statistics + 2 * stride_statistics + i_at, mask=m_in, other=0.0)
        # [KEYS, ROWS]
        b_scores = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * sign
        if not WHOLE:
            b_scores = tl.where((m_key | m_bad)[:, None], b_scores, -float("inf"))
        b_p = tl.exp2((b_scores - b_max[None, :]) * factor) * b_inverse[None, :]
        # [KEYS, BLOCK_D]
        b_grad_v = tl.dot(b_p.to(b_grad.dtype), b_grad, b_grad_v, input_precision=PRECISION)
        b_dp = tl.dot(b_v, tl.trans(b_grad), input_precision=PRECISION)
        b_ds = b_p * (b_dp - b_delta[None, :])
        b_grad_k = tl.dot(b_ds.to(b_q.dtype), b_q, b_grad_k, input_precision=PRECISION)

    o_grad_k = i_cluster * stride_grad_k_b + i_head * stride_grad_k_h + i_token * stride_grad_k_t
    o_grad_v = i_cluster * stride_grad_v_b + i_head * stride_grad_v_h + i_token * stride_grad_v_t
    store_rows(p_grad_k, o_grad_k, stride_grad_k_d, m_row, b_grad_k * scale, D, BLOCK_D)
    store_rows(p_grad_v, o_grad_v, stride_grad_v_d, m_row, b_grad_v, D, BLOCK_D)
