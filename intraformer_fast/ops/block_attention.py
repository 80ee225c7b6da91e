"""Block attention: schema, shapes and gradients of the op. Triton serves it on CUDA, C++ on the CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intraformer_fast import native, reference
from intraformer_fast.ops import eligibility, second_order

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The widest heads that the tiles of Triton hold.
MOST_WIDTH = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}
# Runs that fit a tile without tensor cores.
SHORT = 16


def not_supported_reasons(
    backend: str,
    q: Tensor | None = None,
    k: Tensor | None = None,
    v: Tensor | None = None,
    valid: Tensor | None = None,
    num_blocks: int = 1,
) -> list[str]:
    """Why the op of `backend` ("cpu" or "triton") cannot serve a call, or without tensors any call; empty where it can."""
    tensors = {name: (tensor, DTYPES) for name, tensor in (("q", q), ("k", k), ("v", v))}
    reasons = eligibility.not_supported_reasons(backend, {**tensors, "valid": (valid, (torch.bool,))})
    return reasons + ([] if q is None else width_reasons(backend, q))


def width_reasons(backend: str, q: Tensor) -> list[str]:
    """Why the kernels of `backend` cannot take heads as wide as those of `q`, [..., D]; empty where they can."""
    if backend != "triton":
        return []
    width, most = q.shape[-1], MOST_WIDTH.get(q.dtype, 256)
    return [] if 1 <= width <= most else [f"a head of {q.dtype} is {width} wide (it takes 1 to {most})"]


def slower_reasons(
    backend: str,
    q: Tensor | None = None,
    k: Tensor | None = None,
    v: Tensor | None = None,
    valid: Tensor | None = None,
    num_blocks: int = 1,
) -> list[str]:
    """Why the reference is faster than the op of `backend`; empty where it is not."""
    if backend != "triton" or q is None or k is None or v is None:
        return []
    return float32_reasons((q, k, v), -(-q.shape[2] // num_blocks))


def float32_reasons(tensors: Sequence[Tensor], longest: int) -> list[str]:
    """Why Triton is slower than the reference at the gradients of runs of this length; empty where it is not."""
    if longest <= SHORT or tensors[0].dtype != torch.float32 or torch.is_autocast_enabled("cuda"):
        return []
    if eligibility.multiplies_in_tf32():
        return []
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return []
    return ["float32 products off the tensor cores: cuBLAS makes gradients twice as fast (on an H100, runs of 64)"]


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, num_blocks: int, *, valid: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Self-attention inside each run of tokens; see `intraformer_fast.functional.block_attention`."""
    q, k, v = eligibility.autocast(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    output: Tensor = torch.ops.intraformer_fast.block_attention.default(q, k, v, valid, num_blocks, scale)
    return output


native.LIBRARY.define(
    "block_attention(Tensor q, Tensor k, Tensor v, Tensor? valid, int num_blocks, float scale) -> Tensor"
)
native.LIBRARY.define(
    "block_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? valid, int num_blocks, float scale)"
    " -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)"
)


def empty_like_heads(q: Tensor) -> Tensor:
    """[B, H, n, D] over the memory of a [B, n, H, D]: the heads of a token side by side, as the model goes on with them."""
    batch, heads, n, width = q.shape
    return q.new_empty((batch, n, heads, width)).transpose(1, 2)


def _output(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, num_blocks: int, scale: float) -> Tensor:
    return empty_like_heads(q)


def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, num_blocks: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like_heads(q), empty_like_heads(k), empty_like_heads(v)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, valid, ctx.num_blocks, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, valid)
        with torch._C._AutoDispatchBelowAutograd():
            output: Tensor = torch.ops.intraformer_fast.block_attention.default(*inputs)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, valid = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a gradient that can be differentiated again, by the reference

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return reference.block_attention(q, k, v, ctx.num_blocks, valid=valid, scale=ctx.scale)

            gradients = second_order.gradients(attend, (q, k, v), grad)
        else:
            op = torch.ops.intraformer_fast.block_attention_backward.default
            gradients = op(grad, q, k, v, valid, ctx.num_blocks, ctx.scale)
        return *gradients, None, None, None


def _triton_forward(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, num_blocks: int, scale: float) -> Tensor:
    from intraformer_fast.kernels.block_attention import launch

    output = empty_like_heads(q)
    launch.forward(output, q, k, v, valid, num_blocks, scale)
    return output


def _triton_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, num_blocks: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from intraformer_fast.kernels.block_attention import launch

    gradients = empty_like_heads(q), empty_like_heads(k), empty_like_heads(v)
    launch.backward(gradients, grad, q, k, v, valid, num_blocks, scale)
    return gradients


torch.library.register_fake(f"{native.NAMESPACE}::block_attention", _output, lib=native.LIBRARY)
torch.library.register_fake(f"{native.NAMESPACE}::block_attention_backward", _gradients, lib=native.LIBRARY)
native.LIBRARY.impl("block_attention", _BlockAttention.apply, "Autograd")
native.LIBRARY.impl("block_attention", _triton_forward, "CUDA")
native.LIBRARY.impl("block_attention_backward", _triton_backward, "CUDA")
