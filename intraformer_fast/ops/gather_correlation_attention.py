"""C-ATT over rows of tables: schema, shapes and gradients of the op. Triton serves it on CUDA. On the CPU it is the dense C++ op on
rows that torch gathers, a copy of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from intraformer_fast import native, reference
from intraformer_fast.kernels.correlation_attention.call import Call
from intraformer_fast.ops import correlation_attention as dense
from intraformer_fast.ops import eligibility, second_order

IDS = (torch.int32, torch.int64)


def not_supported_reasons(
    backend: str,
    query_table: Tensor | None = None,
    context_table: Tensor | None = None,
    weight: Tensor | None = None,
    query_neighbors: Tensor | None = None,
    context_neighbors: Tensor | None = None,
) -> list[str]:
    """Why the op of `backend` ("cpu" or "triton") cannot serve a call, or without tensors any call; empty where it can."""
    factors = (("query_table", query_table), ("context_table", context_table), ("weight", weight))
    tensors = {name: (tensor, dense.DTYPES) for name, tensor in factors}
    ids = (("query_neighbors", query_neighbors), ("context_neighbors", context_neighbors))
    reasons = eligibility.not_supported_reasons(backend, {**tensors, **{name: (t, IDS) for name, t in ids}})
    return reasons + dense.size_reasons(
        backend, weight, None if context_neighbors is None else context_neighbors.shape[1]
    )


def slower_reasons(
    backend: str,
    query_table: Tensor | None = None,
    context_table: Tensor | None = None,
    weight: Tensor | None = None,
    query_neighbors: Tensor | None = None,
    context_neighbors: Tensor | None = None,
) -> list[str]:
    """Why the reference is faster than the op of `backend`; empty where it is not."""
    return dense.slower_reasons(backend, query_table, context_table, weight)


def gather_correlation_attention(
    query_table: Tensor,
    context_table: Tensor,
    weight: Tensor,
    query_neighbors: Tensor,
    context_neighbors: Tensor,
) -> Tensor:
    """C-ATT over rows of tables; see `intraformer_fast.functional.gather_correlation_attention`."""
    return cross_attention(
        Call(
            query_table,
            context_table,
            weight[None],
            None,
            None,
            num_streams=1,
            anchor_asks=False,
            member_ids=query_neighbors,
            anchor_ids=context_neighbors,
        )
    )


def cross_attention(call: Call) -> Tensor:
    """C-ATT of all streams of a block in one call, members, anchor or both being rows of tables."""
    factors = eligibility.autocast(*call[:3])
    output: Tensor = torch.ops.intraformer_fast.gather_correlation_attention.default(*factors, *call[3:])
    return output


# What the arguments are: kernels/correlation_attention/call.py. The result is [B, r, d].
native.LIBRARY.define(
    "gather_correlation_attention(Tensor member, Tensor anchor, Tensor weight, Tensor? valid_member, Tensor? valid_anchor,"
    " int num_streams, bool anchor_asks, Tensor? member_ids, Tensor? anchor_ids) -> Tensor"
)
native.LIBRARY.define(
    "gather_correlation_attention_backward(Tensor grad, Tensor member, Tensor anchor, Tensor weight, Tensor? valid_member,"
    " Tensor? valid_anchor, int num_streams, bool anchor_asks, Tensor? member_ids, Tensor? anchor_ids)"
    " -> (Tensor grad_member, Tensor grad_anchor, Tensor grad_weight)"
)


def gathered(attend: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`attend`, an op on dense tokens, on those that the ids name; differentiable by torch."""
    call = Call(*arguments)
    member, valid_member = _places(call.member, call.member_ids, call.valid_member)
    anchor, valid_anchor = _places(call.anchor, call.anchor_ids, call.valid_anchor)
    output = attend(member, anchor, call.weight, valid_member, valid_anchor, call.num_streams, call.anchor_asks)
    if call.anchor_asks and call.anchor_ids is not None:
        bounds = reference.subcluster_bounds(call.shape[1], call.num_streams)
        asks = torch.cat([call.anchor_ids[:, : stop - start] for start, stop in bounds], dim=1) >= 0
    elif not call.anchor_asks and call.member_ids is not None:
        asks = call.member_ids >= 0
    else:
        return output
    return output.masked_fill(~asks[..., None], 0.0)


def _places(tokens: Tensor, ids: Tensor | None, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The tokens [B, n, d] and which are there; zeros where none is."""
    if ids is None:
        return tokens, valid
    valid = ids >= 0
    return tokens[ids.clamp(min=0)].masked_fill(~valid[..., None], 0.0), valid


class _GatherCorrelationAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.num_streams, ctx.anchor_asks = inputs[5:7]
        ctx.save_for_backward(*inputs[:5], *inputs[7:])
        with torch._C._AutoDispatchBelowAutograd():
            output: Tensor = torch.ops.intraformer_fast.gather_correlation_attention.default(*inputs)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        member, anchor, weight, valid_member, valid_anchor, *ids = ctx.saved_tensors
        factors = member, anchor, weight
        options = valid_member, valid_anchor, ctx.num_streams, ctx.anchor_asks, *ids
        if torch.is_grad_enabled():

            def attend(*factors: Tensor) -> Tensor:
                return gathered(dense.streams, *factors, *options)

            gradients = second_order.gradients(attend, factors, grad)
        else:
            op = torch.ops.intraformer_fast.gather_correlation_attention_backward.default
            gradients = op(grad, *factors, *options)
        return *gradients, None, None, None, None, None, None


def _on_cpu(*arguments: Any) -> Tensor:
    return gathered(dense.attended, *arguments)


torch.library.register_fake(f"{native.NAMESPACE}::gather_correlation_attention", dense.output, lib=native.LIBRARY)
torch.library.register_fake(
    f"{native.NAMESPACE}::gather_correlation_attention_backward", dense.gradients, lib=native.LIBRARY
)
native.LIBRARY.impl("gather_correlation_attention", _GatherCorrelationAttention.apply, "AutogradCUDA")
native.LIBRARY.impl("gather_correlation_attention", dense.triton_forward, "CUDA")
native.LIBRARY.impl("gather_correlation_attention_backward", dense.triton_backward, "CUDA")
native.LIBRARY.impl("gather_correlation_attention", _on_cpu, "AutogradCPU")
native.LIBRARY.impl("gather_correlation_attention", _on_cpu, "CPU")
