"""The gather's own backward: the gradients of all places where a sample stands, summed in the order of the places."""

import triton
import triton.language as tl


@triton.jit
def sum_places(
    p_table, stride_table_n, stride_table_h, stride_table_d,
    p_grad, stride_grad_b, stride_grad_h, stride_grad_t, stride_grad_d,
    p_sorted, p_order, p_end,
    num_samples, num_neighbors,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One program: one head of the sample at one place of the sorted ids; only the first place of a sample works for all of them. Ids
    that are no sample (-1 is padding) are nobody's.

    `p_order` holds the places (cluster * n + token) sorted by id, `p_sorted` their ids, `p_end` where the places of each id end.
    """
    i_place = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1).to(tl.int64)
    i_sample = tl.load(p_sorted + i_place)
    before = tl.load(p_sorted + i_place - 1, mask=i_place > 0, other=-1)
    if (i_sample > before) & (i_sample < num_samples):
        end = tl.load(p_end + i_place)
        o_d = tl.arange(0, BLOCK_D).to(tl.int64)
        b_sum = tl.zeros([BLOCK_D], tl.float32)
        for first in range(i_place, end, PLACES):
            i_at = first + tl.arange(0, PLACES)
            m_at = i_at < end
            i_from = tl.load(p_order + i_at, mask=m_at, other=0)
            o_from = i_from // num_neighbors * stride_grad_b + i_from % num_neighbors * stride_grad_t
            # [PLACES, BLOCK_D]
            p_rows = p_grad + i_head * stride_grad_h + o_from[:, None] + o_d[None, :] * stride_grad_d
            b_rows = tl.load(p_rows, mask=m_at[:, None] & (o_d < D)[None, :], other=0.0)
            b_sum += tl.sum(b_rows.to(tl.float32), 0)
        p_row = p_table + i_sample * stride_table_n + i_head * stride_table_h + o_d * stride_table_d
        tl.store(p_row, b_sum.to(p_table.dtype.element_ty), mask=o_d < D)
