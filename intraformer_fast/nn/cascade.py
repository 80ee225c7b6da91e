"""Inference that stops where a cluster ends: later sub-clusters are looked at only while earlier ones still find members."""

from typing import NamedTuple

import torch
from torch import Tensor

from intraformer_fast import cost
from intraformer_fast.nn.intraformer import Intraformer
from intraformer_fast.ops import routing
from intraformer_fast.reference import subcluster_bounds
from intraformer_fast.reference.intraformer import Block, merge_heads, split_heads

TAIL = 4
"""The mean probability in the last of so many equal parts of a sub-cluster has to be above the floor, or the cluster ends there."""


class CascadeAnswer(NamedTuple):
    """probability: float32 [B, n], 0 where nothing was computed and at padding. streams: int64 [B], how many of the k were."""

    probability: Tensor
    streams: Tensor


def cascade(model: Intraformer, x: Tensor, valid: Tensor | None, floor: float) -> CascadeAnswer:
    """The sigmoid of `model(x, valid)`, without the streams that a cluster does not reach.

    Stream m needs itself and stream 0 alone. Stream 0 goes first; stream m follows for the clusters in which stream m - 1 was
    followed and whose last quarter of tokens has a mean probability above the floor: the share of members that is expected there. A
    single one far out, as every crowd has some, does not ask for the next sub-cluster. With `floor=0` every cluster is answered in
    full, as by `model(x, valid)` up to rounding.

    Args:
        model: in evaluation mode.
        x: [B, n, d_in], the centroid first, L2-normalised.
        valid: bool[B, n], False at padding; None means that there is none.
        floor: in [0, 1).

    Raises:
        ValueError: the floor is out of range, or as `model`.
    """
    check_floor(floor)
    model._check(x, valid)
    if valid is not None:
        x = x.masked_fill(~valid[..., None], 0.0)
    tokens = model._embed(x)
    bounds = subcluster_bounds(x.shape[1], model.num_subclusters)
    blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
    mask = None if valid is None else valid[:, : bounds[0][1]]
    anchors = [tokens[:, : bounds[0][1]]]
    for block in blocks:
        anchors.append(_stream(model, block, 0, anchors[-1], mask, None, None))
    probability = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device)
    streams = torch.ones(len(x), dtype=torch.int64, device=x.device)
    q = probability[:, : bounds[0][1]] = _answer(model, anchors[-1], mask)
    rows = torch.arange(len(x), device=x.device)
    for m, (start, stop) in enumerate(bounds[1:], 1):
        if floor > 0:
            tail = q[:, q.shape[1] - max(1, q.shape[1] // TAIL) :]
            rows = rows[tail.mean(1) > floor]
        if not len(rows) or start == stop:
            break
        h, own = tokens[rows, start:stop], None if valid is None else valid[rows, start:stop]
        for block, anchor in zip(blocks, anchors, strict=False):
            h = _stream(model, block, m, h, own, anchor[rows], None if mask is None else mask[rows])
        q = _answer(model, h, own)
        probability[rows, start:stop] = q
        streams[rows] += 1
    return CascadeAnswer(probability, streams)


def check_floor(floor: float) -> None:
    """Raise ValueError where the floor of a cascade is out of range."""
    if not 0 <= floor < 1:
        raise ValueError(f"cascade = {floor}: expected a probability in [0, 1), 0 for the exact answer")


def stream_flops(model: Intraformer, n: int) -> list[int]:
    """Floating-point operations of each stream on one cluster of n: its matrix products, two operations a multiplication."""
    width, hidden = model.embed_dim, int(model.config["ffn_dim"])  # type: ignore[call-overload]
    lengths = cost.runs(n, model.num_subclusters)
    flops = [cost.encoder_layer(1, length, width, ffn_dim=hidden).flops for length in lengths]
    for m, length in enumerate(lengths[1:] if model.config["cross_attention"] else (), 1):
        flops[m] += cost.correlation_attention(1, length, lengths[0], width).flops
    return [len(model.blocks) * of_block for of_block in flops]


def _answer(model: Intraformer, h: Tensor, valid: Tensor | None) -> Tensor:
    q = model.head(model.norm(h)).squeeze(-1).float().sigmoid()
    return q if valid is None else q.masked_fill(~valid, 0.0)


def _stream(
    model: Intraformer,
    block: Block,
    stream: int,
    h: Tensor,
    valid: Tensor | None,
    anchor: Tensor | None,
    anchor_valid: Tensor | None,
) -> Tensor:
    """One stream through one block; `anchor` is stream 0 as it enters the block."""
    layer = block.layer(stream)
    q, k, v = split_heads(layer.project(h), model.num_heads)
    attention = routing.select("block_attention", q, k, v, valid, 1, backend=model.backend)
    h = layer.add_attention(h, merge_heads(attention.block_attention(q, k, v, 1, valid=valid)))
    if anchor is not None and (cross := block.cross) is not None:
        module = routing.select("correlation_attention", h, anchor, cross.weight, anchor_valid, backend=model.backend)
        h = h + model._cross(block, stream, h, anchor, valid, anchor_valid, module.correlation_attention)
    return layer.add_ffn(h)
