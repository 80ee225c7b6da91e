"""Linear layers of all streams at once on the CPU, with what stands before and after: shapes and gradients of the native op
(csrc/stream_linear/op.h)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast import native, reference
from intraformer_fast.ops import eligibility, second_order

DTYPES = (torch.float32, torch.bfloat16)
# Widths that the native loops step through without remainders.
WIDTH_STEP = 16


def not_supported_reasons(
    backend: str, input: Tensor, parameters: Sequence[Tensor], widths: tuple[int, ...]
) -> list[str]:
    """Why the native op of `backend` cannot serve a call; empty where it can.

    Args:
        backend: "cpu", the only one that has it.
        input: [B, n, c].
        parameters: of all layers and norms, in any order.
        widths: of the tokens in front of the layers and behind them.
    """
    reasons = eligibility.not_supported_reasons(backend, {"input": (input, DTYPES)})
    if torch.is_autocast_enabled("cpu"):
        if torch.get_autocast_dtype("cpu") != torch.bfloat16:
            reasons.append(f"autocast is to {torch.get_autocast_dtype('cpu')} (it computes in float32 or bfloat16)")
    elif input.dtype != torch.float32:
        reasons.append(f"input is {input.dtype} without autocast (the parameters are torch.float32)")
    for parameter in parameters:
        if parameter.device.type != backend or parameter.dtype != torch.float32:
            reasons.append(
                f"a parameter is {parameter.dtype} on {parameter.device} (it takes torch.float32 on the {backend})"
            )
            break
    for width in widths:
        if width % WIDTH_STEP:
            reasons.append(f"tokens are {width} wide (it takes multiples of {WIDTH_STEP})")
            break
    return reasons


def slower_reasons(backend: str, input: Tensor, parameters: Sequence[Tensor], widths: tuple[int, ...]) -> list[str]:
    """Why torch's own layers are faster than the op of `backend`; empty where they are not."""
    if torch.is_autocast_enabled("cpu"):
        return []
    return ["products of float32: MKL takes 0.6 times the op's time for a step at a width of 512, 0.9 to 1.04 at 128"]


def stream_linear(
    input: Tensor,
    layers: Sequence[nn.Linear],
    *,
    norms: Sequence[nn.LayerNorm] = (),
    gelu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """One linear layer a stream: y = W x' + b + residual, with x' the tokens themselves, LayerNorm(x) or GELU(x).

    Args:
        input: [B, n, c]; stream m is run m of `len(layers)` near-equal runs of the tokens, as of numpy.array_split.
        layers: one a stream, all of one shape; the same may serve several streams.
        norms: one a stream, or none. They have the same epsilon.
        gelu: whether a GELU stands in front; not together with norms.
        residual: [B, n, f], or None.

    Returns:
        [B, n, f]; in the dtype of the residual, else as a linear layer's under autocast.
    """
    output: Tensor = torch.ops.intraformer_fast.stream_linear.default(
        input,
        residual,
        [layer.weight for layer in layers],
        [layer.bias for layer in layers],
        [norm.weight for norm in norms],
        [norm.bias for norm in norms],
        gelu,
        norms[0].eps if norms else 0.0,
        torch.is_autocast_enabled("cpu"),
    )[0]
    return output


def composed(
    input: Tensor,
    residual: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    gelu: bool,
    epsilon: float,
) -> Tensor:
    """The op in PyTorch's own operators, stream by stream."""
    outputs = []
    for m, (start, stop) in enumerate(reference.subcluster_bounds(input.shape[1], len(weights))):
        tokens = input[:, start:stop]
        if norm_weights:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], norm_weights[m], norm_biases[m], epsilon)
        elif gelu:
            tokens = F.gelu(tokens)
        outputs.append(F.linear(tokens, weights[m], biases[m]))
    output = torch.cat(outputs, dim=1)
    return output if residual is None else output + residual


def _forward_shapes(
    input: Tensor,
    residual: Tensor | None,
    weights: list[Tensor],
    biases: list[Tensor],
    norm_weights: list[Tensor],
    norm_biases: list[Tensor],
    gelu: bool,
    epsilon: float,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    batch, n, _ = input.shape
    dtype = residual.dtype if residual is not None else torch.bfloat16 if bfloat16 else torch.float32
    output = input.new_empty((batch, n, weights[0].shape[0]), dtype=dtype)
    return output, input.new_empty((2, batch, n) if norm_weights else (0,), dtype=torch.float32)


def _backward_shapes(
    grad: Tensor,
    input: Tensor,
    moments: Tensor,
    weights: list[Tensor],
    norm_weights: list[Tensor],
    norm_biases: list[Tensor],
    gelu: bool,
    bfloat16: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    k, (outputs, inputs), norms = len(weights), weights[0].shape, len(norm_weights)
    return (
        input.new_empty(input.shape),
        input.new_empty((k, outputs, inputs), dtype=torch.float32),
        input.new_empty((k, outputs), dtype=torch.float32),
        input.new_empty((norms, inputs), dtype=torch.float32),
        input.new_empty((norms, inputs), dtype=torch.float32),
    )


class _StreamLinear(torch.autograd.Function):
    # Autograd sees tensors that are arguments of their own, not those in lists.
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        residual: Tensor | None,
        counts: Sequence[int],
        gelu: bool,
        epsilon: float,
        bfloat16: bool,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        lists = _lists(parameters, counts)
        with torch._C._AutoDispatchBelowAutograd():
            output, moments = torch.ops.intraformer_fast.stream_linear.default(
                input, residual, *lists, gelu, epsilon, bfloat16
            )
        ctx.save_for_backward(input, residual, moments, *parameters)
        ctx.mark_non_differentiable(moments)
        ctx.set_materialize_grads(False)
        ctx.options = counts, gelu, epsilon, bfloat16
        return output, moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        input, residual, moments, *parameters = ctx.saved_tensors
        counts, gelu, epsilon, bfloat16 = ctx.options
        if grad is None:
            return (None,) * (6 + len(parameters))
        if torch.is_grad_enabled():  # create_graph=True

            def multiply(input: Tensor, *parameters: Tensor) -> Tensor:
                weights, biases, norm_weights, norm_biases = _lists(parameters, counts)
                return composed(input, None, weights, biases, norm_weights, norm_biases, gelu, epsilon)

            grad_input, *found = second_order.gradients(multiply, (input, *parameters), grad)
        else:
            weights, _biases, norm_weights, norm_biases = _lists(parameters, counts)
            grad_input, *stacked = torch.ops.intraformer_fast.stream_linear_backward.default(
                grad, input, moments, weights, norm_weights, norm_biases, gelu, bfloat16
            )
            found = [part for gradient in stacked for part in gradient.unbind()]
        return grad_input, None if residual is None else grad, None, None, None, None, *found


def _lists(parameters: Sequence[Tensor], counts: Sequence[int]) -> tuple[list[Tensor], ...]:
    """Weights, biases, and those of the norms."""
    found = iter(parameters)
    return tuple([next(found) for _ in range(count)] for count in counts)


def _autograd(
    input: Tensor,
    residual: Tensor | None,
    weights: list[Tensor],
    biases: list[Tensor],
    norm_weights: list[Tensor],
    norm_biases: list[Tensor],
    gelu: bool,
    epsilon: float,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    lists = weights, biases, norm_weights, norm_biases
    counts, parameters = [len(part) for part in lists], [p for part in lists for p in part]
    found: tuple[Tensor, Tensor] = _StreamLinear.apply(input, residual, counts, gelu, epsilon, bfloat16, *parameters)
    return found


if not native.NOT_LOADED["cpu"]:
    torch.library.register_fake(f"{native.NAMESPACE}::stream_linear", _forward_shapes)
    torch.library.register_fake(f"{native.NAMESPACE}::stream_linear_backward", _backward_shapes)
    native.LIBRARY.impl("stream_linear", _autograd, "Autograd")
