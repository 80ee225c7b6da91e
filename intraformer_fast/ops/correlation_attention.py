"""C-ATT: schema, shapes and gradients of the op. Triton serves it on CUDA, C++ on the CPU."""

from typing import Any

import torch
from torch import Tensor

from intraformer_fast import native, reference
from intraformer_fast.kernels.correlation_attention.call import Call
from intraformer_fast.ops import eligibility, second_order

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Widths the kernels hold on chip, and the longest context whose scores they hold there.
MOST_WIDTH = 1024
# Wider tokens leave the caches of a core.
MOST_CPU_WIDTH = 256
MOST_CONTEXT = 256


def not_supported_reasons(
    backend: str,
    x_query: Tensor | None = None,
    x_context: Tensor | None = None,
    weight: Tensor | None = None,
    valid_context: Tensor | None = None,
) -> list[str]:
    """Why the op of `backend` ("cpu" or "triton") cannot serve a call, or without tensors any call; empty where it can."""
    named = (("x_query", x_query), ("x_context", x_context), ("weight", weight))
    tensors = {name: (tensor, DTYPES) for name, tensor in named}
    reasons = eligibility.not_supported_reasons(backend, {**tensors, "valid_context": (valid_context, (torch.bool,))})
    return reasons + size_reasons(backend, weight, None if x_context is None else x_context.shape[-2])


def size_reasons(backend: str, weight: Tensor | None, context: int | None) -> list[str]:
    """Why the op cannot serve tokens of that width and a context of that many."""
    reasons = []
    if weight is not None and not 1 <= weight.shape[-1] <= MOST_WIDTH:
        reasons.append(f"the tokens are {weight.shape[-1]} wide (it takes 1 to {MOST_WIDTH})")
    if backend == "triton" and context is not None and context > MOST_CONTEXT:
        reasons.append(f"the context has {context} tokens (it takes up to {MOST_CONTEXT})")
    return reasons


def slower_reasons(
    backend: str,
    x_query: Tensor | None = None,
    x_context: Tensor | None = None,
    weight: Tensor | None = None,
    valid_context: Tensor | None = None,
) -> list[str]:
    """Why the reference is faster than the op of `backend`; empty where it is not."""
    tensors = [t for t in (x_query, x_context, weight) if t is not None]
    if backend == "cpu" and weight is not None and weight.shape[-1] > MOST_CPU_WIDTH:
        return [
            f"tokens wider than {MOST_CPU_WIDTH}: MKL multiplies them faster (0.85 to 0.9 times its time at 512, on a Cascade Lake)"
        ]
    if backend != "triton" or not tensors or tensors[0].dtype != torch.float32 or torch.is_autocast_enabled("cuda"):
        return []
    if eligibility.multiplies_in_tf32() or not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return []
    return [
        "gradients of float32 off the tensor cores: each slice of the width makes the scores anew, cuBLAS only once"
    ]


def correlation_attention(
    x_query: Tensor, x_context: Tensor, weight: Tensor, *, valid_context: Tensor | None = None
) -> Tensor:
    """C-ATT; see `intraformer_fast.functional.correlation_attention`."""
    shape = x_query.shape
    output = cross_attention(
        x_query.reshape(-1, *shape[-2:]),
        x_context.reshape(-1, *x_context.shape[-2:]),
        weight[None],
        None,
        None if valid_context is None else valid_context.reshape(-1, valid_context.shape[-1]),
        num_streams=1,
        anchor_asks=False,
    )
    return output.view(shape)


def cross_attention(
    member: Tensor,
    anchor: Tensor,
    weight: Tensor,
    valid_member: Tensor | None,
    valid_anchor: Tensor | None,
    *,
    num_streams: int,
    anchor_asks: bool,
) -> Tensor:
    """C-ATT of all streams of a block in one call; the arguments are those of the schema below."""
    member, anchor, weight = eligibility.autocast(member, anchor, weight)
    return attended(member, anchor, weight, valid_member, valid_anchor, num_streams, anchor_asks)


def attended(*arguments: Any) -> Tensor:
    """The result of the operator, whose arguments but the last these are; what it keeps for the gradients is autograd's."""
    result: Tensor = torch.ops.intraformer_fast.correlation_attention.default(*arguments, False)[0]
    return result


# What the arguments are: kernels/correlation_attention/call.py; `keep` and `projected`: csrc/correlation_attention/op.h. The first
# result has the shape of `member`. Where a gradient is asked for, autograd keeps `projected` whatever `keep` is.
native.LIBRARY.define(
    "correlation_attention(Tensor member, Tensor anchor, Tensor weight, Tensor? valid_member, Tensor? valid_anchor,"
    " int num_streams, bool anchor_asks, bool keep) -> (Tensor result, Tensor projected)"
)
native.LIBRARY.define(
    "correlation_attention_backward(Tensor grad, Tensor projected, Tensor member, Tensor anchor, Tensor weight,"
    " Tensor? valid_member, Tensor? valid_anchor, int num_streams, bool anchor_asks)"
    " -> (Tensor grad_member, Tensor grad_anchor, Tensor grad_weight)"
)


def streams(
    member: Tensor,
    anchor: Tensor,
    weight: Tensor,
    valid_member: Tensor | None,
    valid_anchor: Tensor | None,
    num_streams: int,
    anchor_asks: bool,
) -> Tensor:
    """The op as the reference would do it, stream by stream."""
    outputs = []
    for m, (start, stop) in enumerate(reference.subcluster_bounds(member.shape[1], num_streams)):
        tokens, w = member[:, start:stop], weight[min(m, weight.shape[0] - 1)]
        if anchor_asks:
            valid = None if valid_member is None else valid_member[:, start:stop]
            outputs.append(reference.correlation_attention(anchor[:, : stop - start], tokens, w, valid_context=valid))
        else:
            outputs.append(reference.correlation_attention(tokens, anchor, w, valid_context=valid_anchor))
    return torch.cat(outputs, dim=1)


def output(*arguments: Any) -> Tensor:
    """Its shape and dtype, here and of the form with ids."""
    call = Call(*arguments)
    return call.member.new_empty(call.shape)


def gradients(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = Call(*arguments)
    member, anchor, weight = (t.new_empty(t.shape) for t in (call.member, call.anchor, call.weight))
    return member, anchor, weight


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    *of_call, keep = arguments
    found = output(*of_call)
    kept = found.shape if keep and found.device.type == "cpu" else (0,)
    return found, found.new_empty(kept, dtype=torch.float32)


def _gradient_shapes(grad: Tensor, projected: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return gradients(grad, *arguments)


def triton_forward(*arguments: Any) -> Tensor:
    from intraformer_fast.kernels.correlation_attention import launch

    return launch.forward(Call(*arguments))


def triton_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from intraformer_fast.kernels.correlation_attention import launch

    return launch.backward(grad, Call(*arguments))


def _on_cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    *of_call, _keep = arguments
    found = triton_forward(*of_call)
    return found, found.new_empty(0, dtype=torch.float32)


def _backward_on_cuda(grad: Tensor, projected: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return triton_backward(grad, *arguments)


class _CorrelationAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.num_streams, ctx.anchor_asks, _keep = inputs
        with torch._C._AutoDispatchBelowAutograd():
            output, projected = torch.ops.intraformer_fast.correlation_attention.default(*inputs)
        ctx.save_for_backward(projected, *tensors)
        ctx.mark_non_differentiable(projected)
        ctx.set_materialize_grads(False)
        return output, projected

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        projected, *factors, valid_member, valid_anchor = ctx.saved_tensors
        options = valid_member, valid_anchor, ctx.num_streams, ctx.anchor_asks
        if torch.is_grad_enabled():

            def attend(member: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
                return streams(member, anchor, weight, *options)

            gradients = second_order.gradients(attend, factors, grad)
        else:
            op = torch.ops.intraformer_fast.correlation_attention_backward.default
            gradients = op(grad, projected, *factors, *options)
        return *gradients, None, None, None, None, None


def _autograd(*arguments: Any) -> tuple[Tensor, Tensor]:
    *of_call, keep = arguments
    differentiates = torch.is_grad_enabled() and any(factor.requires_grad for factor in of_call[:3])
    found: tuple[Tensor, Tensor] = _CorrelationAttention.apply(*of_call, keep or differentiates)
    return found


torch.library.register_fake(f"{native.NAMESPACE}::correlation_attention", _shapes, lib=native.LIBRARY)
torch.library.register_fake(f"{native.NAMESPACE}::correlation_attention_backward", _gradient_shapes, lib=native.LIBRARY)
native.LIBRARY.impl("correlation_attention", _autograd, "Autograd")
native.LIBRARY.impl("correlation_attention", _on_cuda, "CUDA")
native.LIBRARY.impl("correlation_attention_backward", _backward_on_cuda, "CUDA")
