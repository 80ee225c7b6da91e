"""From tensors to launches: what is projected, which kernel, which tiles, which grid. Takes tensors of any device."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from intraformer_fast.kernels.common.launches import Launch

from . import backward as backward_kernels
from . import configs
from . import forward as forward_kernels
from .products import project, project_launch, weight_gradient, weight_gradient_launch

Gradients = tuple[Tensor, Tensor, Tensor]


def forward(
    member: Tensor,
    anchor: Tensor,
    weight: Tensor,
    valid_member: Tensor | None,
    valid_anchor: Tensor | None,
    num_streams: int,
    anchor_asks: bool,
) -> Tensor:
    """C-ATT [B, r, d]; for the arguments see the schema in `intraformer_fast/ops/correlation_attention.py`."""
    if missing := configs.missing_columns(member.shape[-1]):
        member, anchor, weight = _widened(missing, member, anchor, weight)
        output = forward(member, anchor, weight, valid_member, valid_anchor, num_streams, anchor_asks)
        return output[..., :-missing].contiguous()
    if not member.numel() or not anchor.numel():
        return member.new_zeros(member.shape)
    member, anchor = aligned(member), aligned(anchor)
    context, valid = (member, valid_member) if anchor_asks else (anchor, valid_anchor)
    output = member.new_empty(member.shape)
    forward_launch(output, projected(member, anchor, weight, num_streams, anchor_asks), context, valid).run()
    return output


def backward(
    grad: Tensor,
    member: Tensor,
    anchor: Tensor,
    weight: Tensor,
    valid_member: Tensor | None,
    valid_anchor: Tensor | None,
    num_streams: int,
    anchor_asks: bool,
) -> Gradients:
    """The gradients of member, anchor and weight, given that of the output."""
    if missing := configs.missing_columns(member.shape[-1]):
        grad = pad(grad, (0, missing))
        member, anchor, weight = _widened(missing, member, anchor, weight)
        gradients = backward(grad, member, anchor, weight, valid_member, valid_anchor, num_streams, anchor_asks)
        grad_member, grad_anchor, grad_weight = (g[..., :-missing].contiguous() for g in gradients)
        return grad_member, grad_anchor, grad_weight[:, :-missing].contiguous()
    if not member.numel() or not anchor.numel():
        return member.new_zeros(member.shape), anchor.new_zeros(anchor.shape), weight.new_zeros(weight.shape)
    member, anchor, grad = aligned(member), aligned(anchor), aligned(grad)
    z = projected(member, anchor, weight, num_streams, anchor_asks)
    if anchor_asks:
        return _backward_where_anchor_asks(grad, z, member, anchor, weight, valid_member)
    grad_anchor, g = anchor.new_empty(anchor.shape), z.new_empty(z.shape)
    backward_launch(grad_anchor, g, grad, z, anchor, valid_anchor).run()
    # Z was read for the last time: its memory takes the gradient, so that G alone is stored beside the results.
    grad_member = project(g[:, 0], weight.mT, num_streams, output=z[:, 0])
    return grad_member, grad_anchor, weight_gradient(member, g[:, 0], weight, num_streams)


def projected(member: Tensor, anchor: Tensor, weight: Tensor, num_streams: int, anchor_asks: bool) -> Tensor:
    """Z as [B, runs, rows, d]. The members are one run, since all look at the same anchor; the anchor asks in each of the streams."""
    if not anchor_asks:
        return project(member, weight, num_streams)[:, None]
    batch, n, width = member.shape
    rows = anchor[:, : -(-n // num_streams)]
    # All matrices in one product: [B rows, d] x [d, w d].
    z = rows.reshape(-1, width) @ _side_by_side(weight)
    return z.view(batch, rows.shape[1], -1, width).transpose(1, 2).expand(-1, num_streams, -1, -1)


def _backward_where_anchor_asks(
    grad: Tensor, z: Tensor, member: Tensor, anchor: Tensor, weight: Tensor, valid_member: Tensor | None
) -> Gradients:
    batch, num_runs, num_rows, width = z.shape
    grad_member = member.new_empty(member.shape)
    # Where runs are ragged the last row of some is no query: it must count as zeros in the products below.
    new = z.new_zeros if member.shape[1] % num_runs else z.new_empty
    g = new((batch, num_rows, num_runs, width))
    backward_launch(grad_member, g.transpose(1, 2), grad, z, member, valid_member).run()
    if weight.shape[0] < num_runs:
        g = g.sum(2)
    g = g.view(batch * num_rows, -1)
    rows = anchor[:, :num_rows]
    grad_rows = (g @ _side_by_side(weight).mT).view(rows.shape)
    grad_weight = (rows.reshape(-1, width).mT @ g).view(width, -1, width).transpose(0, 1).contiguous()
    return grad_member, pad(grad_rows, (0, 0, 0, anchor.shape[1] - num_rows)), grad_weight


def forward_launch(
    output: Tensor, z: Tensor, context: Tensor, valid: Tensor | None, capability: int | None = None
) -> Launch:
    """softmax(Z X_c^T) X_c into `output` [B, r, d], for Z [B, runs, rows, d] and X_c [B, c, d]; r and c are cut into the runs."""
    batch, num_runs, num_rows, width = z.shape
    mode, longest, capability = _kind(z, context, capability)
    constexprs: dict[str, Any] = {"D": width, "BN": configs.context_block(longest)}
    if configs.is_whole(mode, width, longest, capability):
        whole = configs.forward_whole(width, longest)
        kernel, num_warps, num_stages = forward_kernels.whole, whole.num_warps, whole.num_stages
        num_parts = configs.forward_parts(batch * num_runs, -(-num_rows // whole.queries))
        constexprs |= {"BD": configs.width_block(width), "BM": whole.queries}
    else:
        tiles = configs.forward_chunked(mode, longest)
        kernel, num_warps, num_stages = forward_kernels.chunked, tiles.num_warps, tiles.num_stages
        num_parts = -(-num_rows // tiles.queries)
        constexprs |= {"BM": tiles.queries, "BK": tiles.step, "BV": tiles.columns, "PRECISION": _precision(mode)}
    arguments = {**_tokens("out", output, "q"), **_inputs(z, context, valid, output.shape[1]), "num_parts": num_parts}
    return Launch(kernel, (batch * num_runs * num_parts,), arguments, constexprs, num_warps, num_stages)


def backward_launch(
    grad_context: Tensor,
    g: Tensor,
    grad: Tensor,
    z: Tensor,
    context: Tensor,
    valid: Tensor | None,
    capability: int | None = None,
) -> Launch:
    """dX_c and G = dZ, in the shapes of X_c and Z, given the gradient of what `forward_launch` writes."""
    batch, num_runs, _, width = z.shape
    mode, longest, capability = _kind(z, context, capability)
    constexprs: dict[str, Any] = {"D": width, "BN": configs.context_block(longest)}
    if configs.is_whole(mode, width, longest, capability):
        whole = configs.backward_whole(width, longest)
        kernel, num_warps, num_stages = backward_kernels.whole, whole.num_warps, whole.num_stages
        num_slices = 1
        constexprs |= {"BD": configs.width_block(width), "BM": whole.queries}
    else:
        tiles = configs.backward_sliced(mode, longest, width)
        kernel, num_warps, num_stages = backward_kernels.sliced, tiles.num_warps, tiles.num_stages
        num_slices = -(-width // tiles.slice)
        constexprs |= {"BM": tiles.queries, "BK": tiles.step, "BW": tiles.slice, "BV": tiles.columns}
        constexprs["PRECISION"] = _precision(mode)
    arguments = {
        **_tokens("grad_c", grad_context, "n"),
        **_runs("g", g),
        **_tokens("grad", grad, "q"),
        **_inputs(z, context, valid, grad.shape[1]),
    }
    return Launch(kernel, (batch * num_runs * num_slices,), arguments, constexprs, num_warps, num_stages)


def aligned(tokens: Tensor) -> Tensor:
    """Itself, or a copy where rows are not contiguous or do not begin at multiples of 16 elements, as 16-byte loads need."""
    strides_fit = tokens.stride(-1) == 1 and all(stride % 16 == 0 for stride in tokens.stride()[:-1])
    if strides_fit and tokens.data_ptr() % 16 == 0:
        return tokens
    return tokens.clone(memory_format=torch.contiguous_format)


def _widened(missing: int, member: Tensor, anchor: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With columns of zeros, and W with rows of zeros too: they change no score, and no column that was there."""
    return pad(member, (0, missing)), pad(anchor, (0, missing)), pad(weight, (0, missing, 0, missing))


def _side_by_side(weight: Tensor) -> Tensor:
    """[w, d, d] as [d, w d]."""
    return weight.transpose(0, 1).reshape(weight.shape[-1], -1)


def _kind(z: Tensor, context: Tensor, capability: int | None) -> tuple[str, int, int]:
    """Mode, longest context of a run, and capability."""
    capability = configs.capability_of(z.device) if capability is None else capability
    return configs.mode_of(z.dtype), -(-context.shape[1] // z.shape[1]), capability


def _precision(mode: str) -> str:
    return "tf32" if mode == configs.TF32 else "ieee"


def _tokens(name: str, tensor: Tensor, axis: str) -> dict[str, Any]:
    return {f"p_{name}": tensor, f"stride_{name}_b": tensor.stride(0), f"stride_{name}_{axis}": tensor.stride(1)}


def _runs(name: str, tensor: Tensor) -> dict[str, Any]:
    strides = zip("brq", tensor.stride(), strict=False)
    return {f"p_{name}": tensor, **{f"stride_{name}_{axis}": stride for axis, stride in strides}}


def _inputs(z: Tensor, context: Tensor, valid: Tensor | None, num_queries: int) -> dict[str, Any]:
    valid_b, valid_n = (0, 0) if valid is None else valid.stride()
    return {
        **_runs("z", z),
        **_tokens("c", context, "n"),
        **{"p_valid": valid, "stride_valid_b": valid_b, "stride_valid_n": valid_n},
        **{"num_queries": num_queries, "num_context": context.shape[1], "num_runs": z.shape[1]},
    }


def possible_launches(
    dtype: torch.dtype, width: int, context: int, capability: int, *, masked: bool = False
) -> dict[str, Launch]:
    """By name, what a call with these tokens can launch on a device of that capability, made of tensors without memory.

    For `dtype` float32 they depend on `torch.backends.cuda.matmul.fp32_precision`, as everywhere.
    """
    queries = torch.empty((2, 3 * context, width), dtype=dtype, device="meta")
    tokens = queries[:, :context]
    weight = torch.empty((3, width, width), dtype=dtype, device="meta")
    valid = torch.empty((2, context), dtype=torch.bool, device="meta") if masked else None
    z = queries[:, None]
    launches = {
        "forward": forward_launch(queries, z, tokens, valid, capability),
        "backward": backward_launch(tokens, z, queries, z, tokens, valid, capability),
    }
    if configs.mode_of(dtype) == configs.HALF:
        launches["project"] = project_launch(queries, queries, weight)
        launches["project transposed"] = project_launch(queries, queries, weight.mT)
        launches["weight gradient"] = weight_gradient_launch(queries, queries, 3)[1]
    return launches
