"""The fused Fowlkes-Mallows loss and purity: shapes and gradients of the native op (csrc/purity_fmi/op.h)."""

from typing import Any

import torch
from torch import Tensor

from intraformer_fast import native, reference
from intraformer_fast.ops import eligibility

PREDICTION_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TARGET_DTYPES = (torch.bool, torch.uint8, torch.int64, *PREDICTION_DTYPES)


def not_supported_reasons(library: str, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> list[str]:
    """Why the native op of `library` ("cpu" or "cuda") cannot serve a call; empty where it can."""
    return eligibility.not_supported_reasons(
        library,
        {
            "prediction": (prediction, PREDICTION_DTYPES),
            "target": (target, TARGET_DTYPES),
            "valid": (valid, (torch.bool,)),
        },
    )


def purity_fmi(
    prediction: Tensor, target: Tensor, *, from_logits: bool = True, valid: Tensor | None = None, bound: str = "dice"
) -> tuple[Tensor, Tensor]:
    """Per-cluster loss and purity; see `intraformer_fast.functional.purity_fmi`."""
    op = torch.ops.intraformer_fast.purity_fmi_forward.default
    loss, purity, _ = op(prediction, target, valid, from_logits, bound == "exact")
    return loss, purity


def _accumulator(prediction: Tensor) -> torch.dtype:
    return torch.float64 if prediction.dtype == torch.float64 else torch.float32


def _forward_shapes(
    prediction: Tensor, target: Tensor, valid: Tensor | None, from_logits: bool, exact: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, dtype = prediction.shape[0], _accumulator(prediction)
    return (
        prediction.new_empty(rows, dtype=dtype),
        prediction.new_empty(rows, dtype=dtype),
        prediction.new_empty((rows, 3), dtype=dtype),
    )


def _backward_shape(
    grad_loss: Tensor,
    grad_purity: Tensor,
    sums: Tensor,
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None,
    from_logits: bool,
    exact: bool,
) -> Tensor:
    return prediction.new_empty(prediction.shape)


class _PurityFMI(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            loss, purity, sums = torch.ops.intraformer_fast.purity_fmi_forward.default(*inputs)
        prediction, target, valid, ctx.from_logits, ctx.exact = inputs
        ctx.save_for_backward(prediction, target, valid, sums)
        ctx.mark_non_differentiable(sums)
        return loss, purity, sums

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, grad_purity: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        prediction, target, valid, sums = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a gradient that can be differentiated again, by the reference
            bound = "exact" if ctx.exact else "dice"
            outputs = reference.purity_fmi(prediction, target, from_logits=ctx.from_logits, valid=valid, bound=bound)
            (gradient,) = torch.autograd.grad(outputs, prediction, (grad_loss, grad_purity), create_graph=True)
        else:
            op = torch.ops.intraformer_fast.purity_fmi_backward.default
            gradient = op(grad_loss, grad_purity, sums, prediction, target, valid, ctx.from_logits, ctx.exact)
        return gradient, None, None, None, None


if not native.NOT_LOADED["cpu"]:
    torch.library.register_fake(f"{native.NAMESPACE}::purity_fmi_forward", _forward_shapes)
    torch.library.register_fake(f"{native.NAMESPACE}::purity_fmi_backward", _backward_shape)
    # Not torch.library.register_autograd: the Function it makes takes 40 us more a step, as long as a batch of 1,000 clusters.
    native.LIBRARY.impl("purity_fmi_forward", _PurityFMI.apply, "Autograd")
