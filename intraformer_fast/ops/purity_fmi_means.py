"""The batch means of the losses: shapes and gradients of the native op (csrc/purity_fmi/op.h)."""

from typing import Any

import torch
from torch import Tensor

from intraformer_fast import native, reference
from intraformer_fast.ops import eligibility

DTYPES = (torch.float32, torch.float64)


def not_supported_reasons(library: str, loss: Tensor, purity: Tensor, counted: Tensor | None = None) -> list[str]:
    """Why the native op of `library` ("cpu" or "cuda") cannot serve a call; empty where it can."""
    return eligibility.not_supported_reasons(
        library, {"loss": (loss, DTYPES), "purity": (purity, DTYPES), "counted": (counted, (torch.bool,))}
    )


def purity_fmi_means(
    loss: Tensor, purity: Tensor, *, counted: Tensor | None = None, detach_point: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch means of the loss, the purity and its distance from their mean; see `reference.purity_fmi_means`."""
    op = torch.ops.intraformer_fast.purity_fmi_means.default
    means = op(
        loss.contiguous(), purity.contiguous(), counted if counted is None else counted.contiguous(), detach_point
    )
    return means[0], means[1], means[2]


def _shape(loss: Tensor, purity: Tensor, counted: Tensor | None, detach_point: bool) -> Tensor:
    return purity.new_empty(5)


def _backward_shapes(
    grad: Tensor, purity: Tensor, counted: Tensor | None, means: Tensor, detach_point: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(purity), torch.empty_like(purity)


class _PurityFMIMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            means = torch.ops.intraformer_fast.purity_fmi_means.default(*inputs)
        loss, purity, counted, ctx.detach_point = inputs
        ctx.save_for_backward(loss, purity, counted, means)
        return means

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        loss, purity, counted, means = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a gradient that can be differentiated again, by the reference
            outputs = reference.purity_fmi_means(loss, purity, counted=counted, detach_point=ctx.detach_point)
            gradients = torch.autograd.grad(
                outputs, (loss, purity), tuple(grad[:3]), create_graph=True, materialize_grads=True
            )
        else:
            op = torch.ops.intraformer_fast.purity_fmi_means_backward.default
            gradients = op(grad, purity, counted, means, ctx.detach_point)
        return *gradients, None, None


if not native.NOT_LOADED["cpu"]:
    torch.library.register_fake(f"{native.NAMESPACE}::purity_fmi_means", _shape)
    torch.library.register_fake(f"{native.NAMESPACE}::purity_fmi_means_backward", _backward_shapes)
    native.LIBRARY.impl("purity_fmi_means", _PurityFMIMeans.apply, "Autograd")
