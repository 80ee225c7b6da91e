"""Backward: `whole` where the context of a run stays on chip, `sliced` where it is too wide or too long for that.

    S^T = X_c Z^T,  dP^T = X_c dO^T,  dS = P (dP - rowsum(P dP)),  G = dZ = dS X_c,  dX_c = dS^T Z + P^T dO

Layouts and ids are those of forward.py; G and dX_c are those of each place, with their own strides. An id that is no row counts as
padding here: the output has told. Z and dO are loaded as one tile Y whose rows take turns, z0, o0, z1, o1, ...: then X_c Y^T holds
S^T and dP^T, and with X = dS^T, P^T in the same turns dX_c = X Y: both terms in one accumulator by one product. Taking turns and
taking apart move nothing between threads, since a thread holds neighbouring columns of a product.
"""

import triton
import triton.language as tl

from intraformer_fast.kernels.common.rows import tokens_at

from .tiles import SIZES, run_of, softmax_columns


@triton.jit
def queries_and_grads(
    p_z, stride_z_q, p_z_ids, stride_z_ids_b, stride_z_ids_q, num_z,
    p_grad, stride_grad_q, i_b, q, q_size, BM: tl.constexpr, GATHER_Q: tl.constexpr,
):  # fmt: skip
    """Pointers to the first column of z0, o0, z1, o1, ... [2 BM, 1] from query `q` on, and which of them are to be read.

    Every row begins at a multiple of 16 bytes, which the compiler cannot see through the choice: `tl.multiple_of` says so below.
    """
    o_y = tl.arange(0, 2 * BM)
    o_q = q + o_y // 2
    i_q, m_q, _ = tokens_at(
        p_z_ids, stride_z_ids_b, stride_z_ids_q, None, 0, 0, i_b, o_q, o_q < q_size, num_z, GATHER_Q, False
    )
    p_y = tl.where(o_y % 2 == 0, p_z + i_q * stride_z_q, p_grad + o_q.to(tl.int64) * stride_grad_q)
    return p_y[:, None], m_q[:, None]


@triton.jit
def probabilities(b_t, m_c, BN: tl.constexpr, BM: tl.constexpr):
    """P^T and dS^T, [BN, BM] in float32, of S^T and dP^T whose columns take turns."""
    b_s, b_dp = tl.split(tl.reshape(b_t, [BN, BM, 2]))
    b_p = softmax_columns(tl.where(m_c[:, None], b_s, -float("inf")))
    return b_p, b_p * (b_dp - tl.sum(b_p * b_dp, 0)[None, :])


@triton.jit(do_not_specialize=SIZES)
def whole(
    p_grad_c, stride_grad_c_b, stride_grad_c_n,
    p_g, stride_g_b, stride_g_r, stride_g_q,
    p_grad, stride_grad_b, stride_grad_q,
    p_z, stride_z_b, stride_z_r, stride_z_q, p_z_ids, stride_z_ids_b, stride_z_ids_q, num_z,
    p_c, stride_c_b, stride_c_n, p_c_ids, stride_c_ids_b, stride_c_ids_n, num_c,
    p_valid, stride_valid_b, stride_valid_n,
    num_queries, num_context, num_runs,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: all queries of one run, `BM` at a time, over the context it has loaded once."""
    i_run = tl.program_id(0) % num_runs
    i_b = (tl.program_id(0) // num_runs).to(tl.int64)
    GATHER_C: tl.constexpr = p_c_ids is not None
    GATHER_Q: tl.constexpr = p_z_ids is not None
    q_start, q_size = run_of(i_run, num_queries, num_runs)
    c_start, c_size = run_of(i_run, num_context, num_runs)

    o_d = tl.arange(0, BD)
    m_d = (o_d < D)[None, :]
    o_c = c_start + tl.arange(0, BN)
    m_run = o_c < c_start + c_size
    i_c, m_c, _ = tokens_at(
        p_c_ids, stride_c_ids_b, stride_c_ids_n, p_valid, stride_valid_b, stride_valid_n,
        i_b, o_c, m_run, num_c, GATHER_C, p_valid is not None,
    )  # fmt: skip
    # [BN, BD]
    p_c += i_b * stride_c_b
    b_c = tl.load(p_c + i_c[:, None] * stride_c_n + o_d[None, :], mask=m_c[:, None] & m_d, other=0.0)
    b_grad_c = tl.zeros([BN, BD], tl.float32)

    p_z += i_b * stride_z_b + i_run.to(tl.int64) * stride_z_r
    p_g += i_b * stride_g_b + i_run.to(tl.int64) * stride_g_r
    p_grad += i_b * stride_grad_b + q_start.to(tl.int64) * stride_grad_q
    for q in range(0, q_size, BM):
        p_y, m_y = queries_and_grads(
            p_z, stride_z_q, p_z_ids, stride_z_ids_b, stride_z_ids_q, num_z,
            p_grad, stride_grad_q, i_b, q, q_size, BM, GATHER_Q,
        )  # fmt: skip
        # [2 BM, BD]
        p_y += o_d[None, :]
        p_y = tl.multiple_of(p_y, [1, 16])
        b_y = tl.load(p_y, mask=m_y & m_d, other=0.0)
        # [BN, BM]
        b_p, b_ds = probabilities(tl.dot(b_c, tl.trans(b_y)), m_c, BN, BM)
        b_x = tl.reshape(tl.join(b_ds, b_p), [BN, 2 * BM]).to(b_c.dtype)
        b_grad_c = tl.dot(b_x, b_y, b_grad_c)
        # [BM, BD]
        b_ds = b_ds.to(b_c.dtype)
        b_g = tl.trans(tl.dot(tl.trans(b_c), b_ds))
        o_q = (q + tl.arange(0, BM)).to(tl.int64)[:, None]
        tl.store(p_g + o_q * stride_g_q + o_d[None, :], b_g.to(b_c.dtype), mask=(o_q < q_size) & m_d)

    # A masked token has neither probability nor score: its gradient is 0.
    p_grad_c += i_b * stride_grad_c_b + o_c.to(tl.int64)[:, None] * stride_grad_c_n
    tl.store(p_grad_c + o_d[None, :], b_grad_c.to(b_c.dtype), mask=m_run[:, None] & m_d)


@triton.jit(do_not_specialize=SIZES)
def sliced(
    p_grad_c, stride_grad_c_b, stride_grad_c_n,
    p_g, stride_g_b, stride_g_r, stride_g_q,
    p_grad, stride_grad_b, stride_grad_q,
    p_z, stride_z_b, stride_z_r, stride_z_q, p_z_ids, stride_z_ids_b, stride_z_ids_q, num_z,
    p_c, stride_c_b, stride_c_n, p_c_ids, stride_c_ids_b, stride_c_ids_n, num_c,
    p_valid, stride_valid_b, stride_valid_n,
    num_queries, num_context, num_runs,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: `BW` columns of both gradients of one run; the scores, `BK` columns at a time, each slice makes for itself."""
    # Slices of a run are neighbours in time: the first brings the operands to the cache for the others.
    num_slices: tl.constexpr = (D + BW - 1) // BW
    i_slice = tl.program_id(0) % num_slices
    i_run = tl.program_id(0) // num_slices % num_runs
    i_b = (tl.program_id(0) // num_slices // num_runs).to(tl.int64)
    GATHER_C: tl.constexpr = p_c_ids is not None
    GATHER_Q: tl.constexpr = p_z_ids is not None
    q_start, q_size = run_of(i_run, num_queries, num_runs)
    c_start, c_size = run_of(i_run, num_context, num_runs)

    o_k = tl.arange(0, BK)
    o_v = i_slice * BW + tl.arange(0, BV)
    o_w = i_slice * BW + tl.arange(0, BW)
    m_w = (o_w < D)[None, :]
    o_c = c_start + tl.arange(0, BN)
    m_run = o_c < c_start + c_size
    i_c, m_c, _ = tokens_at(
        p_c_ids, stride_c_ids_b, stride_c_ids_n, p_valid, stride_valid_b, stride_valid_n,
        i_b, o_c, m_run, num_c, GATHER_C, p_valid is not None,
    )  # fmt: skip
    p_c += i_b * stride_c_b + i_c[:, None] * stride_c_n
    # [BN, BW]
    b_grad_c = tl.zeros([BN, BW], tl.float32)

    p_z += i_b * stride_z_b + i_run.to(tl.int64) * stride_z_r
    p_g += i_b * stride_g_b + i_run.to(tl.int64) * stride_g_r
    p_grad += i_b * stride_grad_b + q_start.to(tl.int64) * stride_grad_q
    for q in range(0, q_size, BM):
        p_y, m_y = queries_and_grads(
            p_z, stride_z_q, p_z_ids, stride_z_ids_b, stride_z_ids_q, num_z,
            p_grad, stride_grad_q, i_b, q, q_size, BM, GATHER_Q,
        )  # fmt: skip
        # [BN, 2 BM]
        b_t = tl.zeros([BN, 2 * BM], tl.float32)
        for k in range(0, D, BK):
            m_k = (k + o_k < D)[None, :]
            # [BN, BK], [2 BM, BK]
            b_c = tl.load(p_c + (k + o_k)[None, :], mask=m_c[:, None] & m_k, other=0.0)
            p_yk = p_y + (k + o_k)[None, :]
            p_yk = tl.multiple_of(p_yk, [1, 16])
            b_y = tl.load(p_yk, mask=m_y & m_k, other=0.0)
            b_t = tl.dot(b_c, tl.trans(b_y), b_t, input_precision=PRECISION)
        # [BN, BM]
        b_p, b_ds = probabilities(b_t, m_c, BN, BM)
        b_x = tl.reshape(tl.join(b_ds, b_p), [BN, 2 * BM]).to(p_c.dtype.element_ty)
        # [2 BM, BW]
        p_y += o_w[None, :]
        p_y = tl.multiple_of(p_y, [1, 16])
        b_y = tl.load(p_y, mask=m_y & m_w, other=0.0)
        b_grad_c = tl.dot(b_x, b_y, b_grad_c, input_precision=PRECISION)

        o_q = (q + tl.arange(0, BM)).to(tl.int64)[:, None]
        b_ds = b_ds.to(p_c.dtype.element_ty)
        for v in range(0, BW, BV):
            m_v = (v + o_v < D)[None, :]
            # [BN, BV]
            b_c = tl.load(p_c + (v + o_v)[None, :], mask=m_c[:, None] & m_v, other=0.0)
            # [BM, BV]
            b_g = tl.trans(tl.dot(tl.trans(b_c), b_ds, input_precision=PRECISION))
            p_gv = p_g + o_q * stride_g_q + (v + o_v)[None, :]
            tl.store(p_gv, b_g.to(p_g.dtype.element_ty), mask=(o_q < q_size) & m_v)

    # A masked token has neither probability nor score: its gradient is 0.
    p_grad_c += i_b * stride_grad_c_b + o_c.to(tl.int64)[:, None] * stride_grad_c_n
    tl.store(p_grad_c + o_w[None, :], b_grad_c.to(p_grad_c.dtype.element_ty), mask=m_run[:, None] & m_w)
