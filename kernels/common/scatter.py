"""The gather's own backward: the gradients of all places where a sample stands, summed in the order of the places."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launches import Launch

# Gradients of one place of one sample, read at once by a program.
PLACES = 8


def sums(places: Sequence[Tensor], neighbors: Tensor, num_samples: int) -> list[Tensor]:
    """Of gradients [B, H, n, D] of the places, each: their sums [num_samples, H, D] over the places of each sample, int[B, n]. Sums are
    in float32."""
    # Stable, so that the places of a sample are summed in their order, the same every time.
    ids, order = neighbors.reshape(-1).to(torch.int64).sort(stable=True)
    ends = torch.searchsorted(ids, ids, right=True)
    tables = []
    for place in places:
        table = place.new_zeros((num_samples, place.shape[1], place.shape[3]))
        sum_launch(table, place, ids, order, ends).run()
        tables.append(table)
    return tables


def sum_launch(table: Tensor, place: Tensor, ids: Tensor, order: Tensor, ends: Tensor) -> Launch:
    """Sum `place` [B, H, n, D] into the rows of `table` [N, H, D]; see `sum_places` for the others, all [B * n]."""
    arguments = {
        "p_table": table,
        **{f"stride_table_{axis}": stride for axis, stride in zip("nhd", table.stride(), strict=True)},
        "p_grad": place,
        **{f"stride_grad_{axis}": stride for axis, stride in zip("bhtd", place.stride(), strict=True)},
        **{"p_sorted": ids, "p_order": order, "p_end": ends},
        **{"num_samples": table.shape[0], "num_neighbors": place.shape[2]},
    }
    width = table.shape[-1]
    constexprs = {"D": width, "BLOCK_D": triton.next_power_of_2(width), "PLACES": PLACES}
    return Launch(sum_places, (max(1, ids.numel()), table.shape[1]), arguments, constexprs, 4, 1)


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
