"""The fused encoder block for inference on the CPU: packed weights and shapes of the native op (csrc/encoder_block/op.h)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from intraformer_fast import native

# Widths that the native loops step through without remainders.
WIDTH_STEP = 16


class Sizes(NamedTuple):
    """What fixes the layout of packed weights, besides the instruction set of the process."""

    num_heads: int
    hidden_width: int
    compute: str  # "float32", "bfloat16" or "int8" (csrc/encoder_block/op.h)


def not_supported_reasons(
    backend: str, tokens: Tensor, valid: Tensor | None, parameters: Sequence[Tensor], sizes: Sizes, dropout: float
) -> list[str]:
    """Why the fused block of `backend` cannot serve a call; empty where it can.

    Args:
        backend: "cpu", the only one that has it.
        tokens, valid: what goes through the block, [B, n, d] and bool[B, n].
        parameters: those of all streams, in any order.
        sizes: what they are to be packed with.
        dropout: the rate in force, 0 in evaluation.
    """
    if torch.compiler.is_compiling():
        return ["the call is being compiled, and packed weights are kept outside a graph"]
    reasons = list(native.NOT_LOADED[backend])
    if torch._C._are_functorch_transforms_active():
        reasons.append("a transform of torch.func (vmap, grad, ...) is active")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (tokens, *parameters)):
        reasons.append("gradients are wanted (torch.no_grad() or torch.inference_mode() says that they are not)")
    if dropout:
        reasons.append(f"dropout of {dropout} is in force (eval() turns it off)")
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        reasons.append(f"autocast is to {torch.get_autocast_dtype('cpu')} (it computes in float32 or bfloat16)")
    for name, tensor in (("tokens", tokens), ("valid", valid), *(("a parameter", p) for p in parameters)):
        if tensor is not None and tensor.device.type != backend:
            reasons.append(f"{name} is on {tensor.device}")
            break
    for name, tensor in (("tokens", tokens), *(("a parameter", p) for p in parameters)):
        if tensor.dtype != torch.float32:
            reasons.append(f"{name} is {tensor.dtype} (it takes torch.float32)")
            break
    # Their memory is not what they show: fake tensors, those spread over machines, quantised ones.
    if not reasons and any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in (tokens, *parameters)):
        reasons.append("the tokens or a parameter are a subclass of torch.Tensor")
    if any(p.is_inference() for p in parameters):
        reasons.append("the parameters were made under torch.inference_mode(), where a change of them goes unseen")
    for name, width in (
        ("a head", tokens.shape[-1] // sizes.num_heads),
        ("the feed-forward network", sizes.hidden_width),
    ):
        if width % WIDTH_STEP:
            reasons.append(f"{name} is {width} wide (it takes multiples of {WIDTH_STEP})")
    return reasons


def compute_of_autocast() -> str:
    """What autocast asks the products on the CPU to be computed in."""
    return "bfloat16" if torch.is_autocast_enabled("cpu") else "float32"


def pack(parameters: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """A stream's parameters (csrc/encoder_block/op.h has their order) as the one tensor that the loops read."""
    op = torch.ops.intraformer_fast.encoder_block_pack
    packed: Tensor = op([p.detach().contiguous() for p in parameters], sizes.num_heads, sizes.compute)
    return packed


def fingerprint(parameters: Sequence[Tensor]) -> int:
    """A number that changes with the parameters; up to 64 numbers of each are looked at, so a lone write may go unseen."""
    return int(torch.ops.intraformer_fast.encoder_block_fingerprint(list(parameters)))


def encoder_block(
    tokens: Tensor,
    valid: Tensor | None,
    packed: Sequence[Tensor],
    sizes: Sizes,
    *,
    anchor_asks: bool,
    epsilon: float,
    post_norm: bool = False,
    relu: bool = False,
    padding_asks: bool = False,
) -> Tensor:
    """All streams of a block at once.

    Args:
        tokens: [B, n, d] float32, as they enter the block.
        valid: bool[B, n], False at padding.
        packed: one tensor a stream, from `pack`.
        sizes: those they were packed with.
        anchor_asks: `cross_query="anchor"`.
        epsilon: of the LayerNorms.
        post_norm: whether the norms follow the residuals; for one stream.
        relu: in place of GELU.
        padding_asks: whether attention is at padding what it is elsewhere, instead of 0; for one stream.

    Returns:
        [B, n, d] float32, the tokens as they leave the block; meaningless at padding.
    """
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    op = torch.ops.intraformer_fast.encoder_block
    output: Tensor = op(tokens, valid, list(packed), *sizes, anchor_asks, epsilon, post_norm, relu, padding_asks)
    return output


def _output_shape(
    tokens: Tensor,
    valid: Tensor | None,
    packed: list[Tensor],
    num_heads: int,
    hidden_width: int,
    compute: str,
    anchor_asks: bool,
    epsilon: float,
    post_norm: bool = False,
    relu: bool = False,
    padding_asks: bool = False,
) -> Tensor:
    return tokens.new_empty(tokens.shape)


if not native.NOT_LOADED["cpu"]:
    torch.library.register_fake(f"{native.NAMESPACE}::encoder_block", _output_shape)
