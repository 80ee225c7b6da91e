"""Block attention over rows of tables: schema, shapes and gradients of the op. Triton serves it on CUDA, C++ on the CPU."""

from typing import Any

import torch
from torch import Tensor

from intraformer_fast import native, reference
from intraformer_fast.ops import block_attention as block
from intraformer_fast.ops import eligibility, second_order


def not_supported_reasons(
    backend: str,
    q_table: Tensor | None = None,
    k_table: Tensor | None = None,
    v_table: Tensor | None = None,
    neighbors: Tensor | None = None,
    num_blocks: int = 1,
) -> list[str]:
    """Why the op of `backend` ("cpu" or "triton") cannot serve a call, or without tensors any call; empty where it can."""
    tables = (("q_table", q_table), ("k_table", k_table), ("v_table", v_table))
    tensors = {name: (table, block.DTYPES) for name, table in tables}
    reasons = eligibility.not_supported_reasons(
        backend, {**tensors, "neighbors": (neighbors, (torch.int32, torch.int64))}
    )
    return reasons + ([] if q_table is None else block.width_reasons(backend, q_table))


def slower_reasons(
    backend: str,
    q_table: Tensor | None = None,
    k_table: Tensor | None = None,
    v_table: Tensor | None = None,
    neighbors: Tensor | None = None,
    num_blocks: int = 1,
) -> list[str]:
    """Why the reference is faster than the op of `backend`; empty where it is not."""
    if backend != "triton" or q_table is None or k_table is None or v_table is None or neighbors is None:
        return []
    return block.float32_reasons((q_table, k_table, v_table), -(-neighbors.shape[1] // num_blocks))


def gather_block_attention(
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    *,
    scale: float | None = None,
) -> Tensor:
    """Block attention over rows of tables; see `intraformer_fast.functional.gather_block_attention`."""
    tables = eligibility.autocast(q_table, k_table, v_table)
    scale = q_table.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = torch.ops.intraformer_fast.gather_block_attention.default(*tables, neighbors, num_blocks, scale)
    return output


native.LIBRARY.define(
    "gather_block_attention(Tensor q_table, Tensor k_table, Tensor v_table, Tensor neighbors, int num_blocks, float scale)"
    " -> Tensor"
)
native.LIBRARY.define(
    "gather_block_attention_backward(Tensor grad, Tensor q_table, Tensor k_table, Tensor v_table, Tensor neighbors,"
    " int num_blocks, float scale) -> (Tensor grad_q_table, Tensor grad_k_table, Tensor grad_v_table)"
)


def _output(
    q_table: Tensor, k_table: Tensor, v_table: Tensor, neighbors: Tensor, num_blocks: int, scale: float
) -> Tensor:
    _, heads, width = q_table.shape
    return q_table.new_empty((*neighbors.shape, heads, width)).transpose(1, 2)


def _gradients(
    grad: Tensor,
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(table.new_empty(table.shape) for table in (q_table, k_table, v_table))  # type: ignore[return-value]


class _GatherBlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.num_blocks, ctx.scale = inputs
        ctx.save_for_backward(*tensors)
        with torch._C._AutoDispatchBelowAutograd():
            output: Tensor = torch.ops.intraformer_fast.gather_block_attention.default(*inputs)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tables, neighbors = ctx.saved_tensors
        if torch.is_grad_enabled():

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return reference.gather_block_attention(q, k, v, neighbors, ctx.num_blocks, scale=ctx.scale)

            gradients = second_order.gradients(attend, tables, grad)
        else:
            op = torch.ops.intraformer_fast.gather_block_attention_backward.default
            gradients = op(grad, *tables, neighbors, ctx.num_blocks, ctx.scale)
        return *gradients, None, None, None


def _triton_forward(
    q_table: Tensor, k_table: Tensor, v_table: Tensor, neighbors: Tensor, num_blocks: int, scale: float
) -> Tensor:
    from intraformer_fast.kernels.block_attention import launch

    output = _output(q_table, k_table, v_table, neighbors, num_blocks, scale)
    launch.gather_forward(output, q_table, k_table, v_table, neighbors, num_blocks, scale)
    return output


def _triton_backward(
    grad: Tensor,
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from intraformer_fast.kernels.block_attention import launch

    return launch.gather_backward(grad, q_table, k_table, v_table, neighbors, num_blocks, scale)


torch.library.register_fake(f"{native.NAMESPACE}::gather_block_attention", _output, lib=native.LIBRARY)
torch.library.register_fake(f"{native.NAMESPACE}::gather_block_attention_backward", _gradients, lib=native.LIBRARY)
native.LIBRARY.impl("gather_block_attention", _GatherBlockAttention.apply, "Autograd")
native.LIBRARY.impl("gather_block_attention", _triton_forward, "CUDA")
native.LIBRARY.impl("gather_block_attention_backward", _triton_backward, "CUDA")
