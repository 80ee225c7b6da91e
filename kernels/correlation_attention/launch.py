"""From tensors to launches: what is projected, which kernel, which tiles, which grid. Takes tensors of any device."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from intraformer_fast.kernels.common import scatter
from intraformer_fast.kernels.common.launches import Launch

from . import backward as backward_kernels
from . import configs
from . import forward as forward_kernels
from .call import Call
from .products import project, project_launch, weight_gradient, weight_gradient_launch

Gradients = tuple[Tensor, Tensor, Tensor]


class Asking(NamedTuple):
    """What is multiplied by W, [b, n, d], and which of its rows each place asks with (None: the one at the same place).

    `once_a_sample`: the rows are those of a table, b is 1.
    """

    rows: Tensor
    ids: Tensor | None
    once_a_sample: bool


def forward(call: Call) -> Tensor:
    """C-ATT [B, r, d]."""
    if missing := configs.missing_columns(call.shape[-1]):
        return forward(_widened(missing, call))[..., :-missing].contiguous()
    if _is_empty(call):
        return call.member.new_zeros(call.shape)
    call = _aligned(call)
    asks = asking(call)
    context, valid, context_ids = call.context
    output = call.member.new_empty(call.shape)
    forward_launch(output, projected(asks.rows, call), context, valid, ids=asks.ids, context_ids=context_ids).run()
    return output


def backward(grad: Tensor, call: Call) -> Gradients:
    """The gradients of member, anchor and weight, given that of the output."""
    if missing := configs.missing_columns(call.shape[-1]):
        gradients = backward(pad(grad, (0, missing)), _widened(missing, call))
        grad_member, grad_anchor, grad_weight = (g[..., :-missing].contiguous() for g in gradients)
        return grad_member, grad_anchor, grad_weight[:, :-missing].contiguous()
    if _is_empty(call):
        member, anchor, weight = call[:3]
        return member.new_zeros(member.shape), anchor.new_zeros(anchor.shape), weight.new_zeros(weight.shape)
    call, grad = _aligned(call), aligned(grad)
    asks = asking(call)
    z = projected(asks.rows, call)
    context, valid, context_ids = call.context
    batch, members, width = call.shape
    grad_context = grad.new_empty((batch, (context if context_ids is None else context_ids).shape[1], width))
    # Where runs are ragged the last row of some is no query: it must count as zeros in the products below.
    ragged = call.anchor_asks and members % call.num_streams
    g = (grad.new_zeros if ragged else grad.new_empty)((batch, call.rows_asking, z.shape[1], width))
    ids = {"ids": asks.ids, "context_ids": context_ids}
    backward_launch(grad_context, g.transpose(1, 2), grad, z, context, valid, **ids).run()
    if context_ids is not None:
        grad_context = _of_table(grad_context, context_ids, context.shape[1])
    if call.weight.shape[0] < g.shape[2]:
        g = g.sum(2, keepdim=True)
    if asks.once_a_sample:
        assert asks.ids is not None
        g = scatter.sums([g.transpose(1, 2)], asks.ids, asks.rows.shape[1])[0][None]
    grad_rows, grad_weight = _product_gradients(g, z, asks.rows, call)
    if call.anchor_asks:
        return grad_context, _of_asking(grad_rows, asks, call.anchor, call.anchor_ids), grad_weight
    return _of_asking(grad_rows, asks, call.member, call.member_ids), grad_context, grad_weight


def asking(call: Call) -> Asking:
    """Rows of a table are projected once a sample; but once a place, from a copy, where there are fewer places than samples, and
    where each stream of the members has a matrix of its own."""
    tokens, ids = (call.anchor, call.anchor_ids) if call.anchor_asks else (call.member, call.member_ids)
    if ids is None:
        return Asking(tokens[:, : call.rows_asking], None, False)
    ids = ids[:, : call.rows_asking]
    num_samples = len(tokens)
    if num_samples <= ids.numel() and (call.anchor_asks or call.weight.shape[0] == 1):
        return Asking(tokens[None], ids, True)
    # Still by ids: -1 stays padding, and what is no sample is past the end.
    at = torch.arange(ids.shape[1], dtype=ids.dtype, device=ids.device).expand_as(ids)
    at = at.masked_fill(ids < 0, -1).masked_fill(ids >= num_samples, ids.shape[1])
    # Zeros where nobody asks: the gradient of W is a product with all rows.
    nobody = ((ids < 0) | (ids >= num_samples))[..., None]
    return Asking(tokens[ids.clamp(0, num_samples - 1)].masked_fill_(nobody, 0.0), at, False)


def projected(rows: Tensor, call: Call) -> Tensor:
    """Z as [b, runs, n, d]. The members are one run, since all look at the same anchor; the anchor asks in each of the streams."""
    if not call.anchor_asks:
        return project(rows, call.weight, call.num_streams)[:, None]
    batch, n, width = rows.shape
    # All matrices in one product: [b n, d] x [d, w d].
    z = rows.reshape(-1, width) @ _side_by_side(call.weight)
    return z.view(batch, n, -1, width).transpose(1, 2).expand(-1, call.num_streams, -1, -1)


def _product_gradients(g: Tensor, z: Tensor, rows: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """The gradients of the rows that were multiplied and of W, given that of Z as [b, n, w, d]."""
    if not call.anchor_asks:
        g = g[:, :, 0]
        # Z was read for the last time: its memory takes the gradient, so that G alone is stored beside the results.
        grad_rows = project(g, call.weight.mT, call.num_streams, output=z[:, 0])
        return grad_rows, weight_gradient(rows, g, call.weight, call.num_streams)
    width = rows.shape[-1]
    g = g.reshape(-1, g.shape[2] * width)
    grad_weight = (rows.reshape(-1, width).mT @ g).view(width, -1, width).transpose(0, 1).contiguous()
    return (g @ _side_by_side(call.weight).mT).view(rows.shape), grad_weight


def _of_asking(grad_rows: Tensor, asks: Asking, tokens: Tensor, ids: Tensor | None) -> Tensor:
    """The gradient of the tokens or the table that the rows were taken from."""
    if asks.once_a_sample:
        return grad_rows[0]
    if ids is not None:
        return _of_table(grad_rows, ids[:, : grad_rows.shape[1]], len(tokens))
    silent = tokens.shape[1] - grad_rows.shape[1]
    return pad(grad_rows, (0, 0, 0, silent)) if silent else grad_rows


def _of_table(places: Tensor, ids: Tensor, num_samples: int) -> Tensor:
    """[B, n, d] of places summed into a table [num_samples, d]."""
    return scatter.sums([places[:, None]], ids, num_samples)[0][:, 0]


def _is_empty(call: Call) -> bool:
    """Whether nothing is asked, or there is nothing to look at."""
    sizes = [call.member.numel(), call.anchor.numel(), *call.shape]
    return not all(sizes + [ids.numel() for ids in (call.member_ids, call.anchor_ids) if ids is not None])


def _aligned(call: Call) -> Call:
    return call._replace(member=aligned(call.member), anchor=aligned(call.anchor))


def forward_launch(
    output: Tensor,
    z: Tensor,
    context: Tensor,
    valid: Tensor | None,
    capability: int | None = None,
    *,
    ids: Tensor | None = None,
    context_ids: Tensor | None = None,
) -> Launch:
    """softmax(Z X_c^T) X_c into `output` [B, r, d], for Z [B, runs, rows, d] and X_c [B, c, d]; r and c are cut into the runs.

    With `ids` [B, rows], row j of each run is row ids[b, j] of its run of Z; with `context_ids` [B, c], token n of the context is row
    context_ids[b, n] of X_c. One table for all clusters stands as [1, ...].
    """
    batch, num_queries, width = output.shape
    num_runs = z.shape[1]
    num_rows = z.shape[2] if ids is None else ids.shape[1]
    inputs = _inputs(z, context, valid, ids, context_ids, batch, num_queries)
    mode, longest, capability = _kind(z, inputs["num_context"], capability)
    gathered = ids is not None or context_ids is not None
    tiles = configs.forward_tiles(mode, longest, width, capability, gathered=gathered)
    num_parts = -(-num_rows // tiles.queries)
    constexprs = {
        "D": width,
        "BN": configs.context_block(longest),
        "BM": tiles.queries,
        "BK": tiles.step,
        "BV": tiles.columns,
        "PRECISION": _precision(mode),
    }
    arguments = {**_tokens("out", output, "q"), **inputs, "num_parts": num_parts}
    grid = (batch * num_runs * num_parts,)
    return Launch(forward_kernels.chunked, grid, arguments, constexprs, tiles.num_warps, tiles.num_stages)


def backward_launch(
    grad_context: Tensor,
    g: Tensor,
    grad: Tensor,
    z: Tensor,
    context: Tensor,
    valid: Tensor | None,
    capability: int | None = None,
    *,
    ids: Tensor | None = None,
    context_ids: Tensor | None = None,
) -> Launch:
    """dX_c [B, c, d] and G = dZ [B, runs, rows, d], of the places, given the gradient of what `forward_launch` writes."""
    batch, num_queries, width = grad.shape
    num_runs = z.shape[1]
    inputs = _inputs(z, context, valid, ids, context_ids, batch, num_queries)
    mode, longest, capability = _kind(z, inputs["num_context"], capability)
    constexprs: dict[str, Any] = {"D": width, "BN": configs.context_block(longest)}
    if configs.is_whole(mode, width, longest, capability):
        whole = configs.backward_whole(width, longest)
        kernel, num_warps, num_stages = backward_kernels.whole, whole.num_warps, whole.num_stages
        num_slices = 1
        constexprs |= {"BD": configs.width_block(width), "BM": whole.queries}
    else:
        gathered = ids is not None or context_ids is not None
        tiles = configs.backward_sliced(mode, longest, width, capability, gathered=gathered)
        kernel, num_warps, num_stages = backward_kernels.sliced, tiles.num_warps, tiles.num_stages
        num_slices = -(-width // tiles.slice)
        constexprs |= {"BM": tiles.queries, "BK": tiles.step, "BW": tiles.slice, "BV": tiles.columns}
        constexprs["PRECISION"] = _precision(mode)
    arguments = {**_tokens("grad_c", grad_context, "n"), **_runs("g", g), **_tokens("grad", grad, "q"), **inputs}
    return Launch(kernel, (batch * num_runs * num_slices,), arguments, constexprs, num_warps, num_stages)


def aligned(tokens: Tensor) -> Tensor:
    """Itself, or a copy where rows are not contiguous or do not begin at multiples of 16 elements, as 16-byte loads need."""
    strides_fit = tokens.stride(-1) == 1 and all(stride % 16 == 0 for stride in tokens.stride()[:-1])
    if strides_fit and tokens.data_ptr() % 16 == 0:
        return tokens
    return tokens.clone(memory_format=torch.contiguous_format)


def _widened(missing: int, call: Call) -> Call:
    """With columns of zeros, and W with rows of zeros too: they change no score, and no column that was there."""
    weight = pad(call.weight, (0, missing, 0, missing))
    return call._replace(member=pad(call.member, (0, missing)), anchor=pad(call.anchor, (0, missing)), weight=weight)


def _side_by_side(weight: Tensor) -> Tensor:
    """[w, d, d] as [d, w d]."""
    return weight.transpose(0, 1).reshape(weight.shape[-1], -1)


def _kind(z: Tensor, num_context: int, capability: int | None) -> tuple[str, int, int]:
    """Mode, longest context of a run, and capability."""
    capability = configs.capability_of(z.device) if capability is None else capability
    return configs.mode_of(z.dtype), -(-num_context // z.shape[1]), capability


def _precision(mode: str) -> str:
    return "tf32" if mode == configs.TF32 else "ieee"


def _tokens(name: str, tensor: Tensor, axis: str) -> dict[str, Any]:
    return {f"p_{name}": tensor, f"stride_{name}_b": tensor.stride(0), f"stride_{name}_{axis}": tensor.stride(1)}


def _runs(name: str, tensor: Tensor) -> dict[str, Any]:
    strides = zip("brq", tensor.stride(), strict=False)
    return {f"p_{name}": tensor, **{f"stride_{name}_{axis}": stride for axis, stride in strides}}


def _ids(name: str, tensor: Tensor | None, axis: str) -> dict[str, Any]:
    strides = (0, 0) if tensor is None else tensor.stride()
    return {
        f"p_{name}": tensor,
        **{f"stride_{name}_{a}": stride for a, stride in zip("b" + axis, strides, strict=True)},
    }


def _inputs(
    z: Tensor,
    context: Tensor,
    valid: Tensor | None,
    ids: Tensor | None,
    context_ids: Tensor | None,
    batch: int,
    num_queries: int,
) -> dict[str, Any]:
    num_context = (context if context_ids is None else context_ids).shape[1]
    return {
        # A table is the same for all clusters: a stride of 0.
        **_runs("z", z.expand(batch, -1, -1, -1)),
        **_ids("z_ids", ids, "q"),
        **_tokens("c", context.expand(batch, -1, -1), "n"),
        **_ids("c_ids", context_ids, "n"),
        **_ids("valid", valid, "n"),
        **{"num_z": z.shape[2], "num_c": context.shape[1]},
        **{"num_queries": num_queries, "num_context": num_context, "num_runs": z.shape[1]},
    }


def possible_launches(
    dtype: torch.dtype, width: int, context: int, capability: int, *, masked: bool = False, gathered: bool = False
) -> dict[str, Launch]:
    """By name, what a call with these tokens can launch on a device of that capability, made of tensors without memory.

    For `dtype` float32 they depend on `torch.backends.cuda.matmul.fp32_precision`, as everywhere.
    """
    queries = torch.empty((2, 3 * context, width), dtype=dtype, device="meta")
    tokens = queries[:, :context]
    weight = torch.empty((3, width, width), dtype=dtype, device="meta")
    valid = torch.empty((2, context), dtype=torch.bool, device="meta") if masked else None
    z = queries[:, None]
    ids = torch.empty((2, 3 * context), dtype=torch.int64, device="meta")
    tables = {"ids": ids, "context_ids": ids[:, :context]} if gathered else {}
    launches = {
        "forward": forward_launch(queries, z, tokens, valid, capability, **tables),
        "backward": backward_launch(tokens, z, queries, z, tokens, valid, capability, **tables),
    }
    if gathered:
        launches["sums of places"] = scatter.sum_launch(queries.transpose(0, 1), z, ids, ids, ids)
    elif configs.mode_of(dtype) == configs.HALF:
        launches["project"] = project_launch(queries, queries, weight)
        launches["project transposed"] = project_launch(queries, queries, weight.mT)
        launches["weight gradient"] = weight_gradient_launch(queries, queries, 3, capability)[1]
    return launches
