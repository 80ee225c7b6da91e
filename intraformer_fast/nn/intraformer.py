"""The drop-in Intraformer: the reference's parameters, the library's ops."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from intraformer_fast import reference
from intraformer_fast.kernels.correlation_attention.call import Call
from intraformer_fast.nn.packed import forget, packed_weights
from intraformer_fast.ops import (
    correlation_attention,
    encoder_block,
    gather_correlation_attention,
    routing,
    stream_linear,
)
from intraformer_fast.presets import preset
from intraformer_fast.reference.intraformer import Block, Bounds, StreamLayer, merge_heads, split_heads

# Kinds of device where the first block's C-ATT takes the anchor from a table. On the CPU the op would copy its rows first, which takes
# longer than to normalise every place.
ANCHOR_FROM_TABLE = ("cuda",)

COMPUTES = ("float", "int8")


class Intraformer(reference.Intraformer):
    __doc__ = reference.Intraformer.__doc__

    # Of a module that was made as a reference.Intraformer too (intraformer_fast.accelerate).
    _compute = "float"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A backend that cannot serve is refused here, not at the first call.
        if self.backend == "cpu":
            routing.select("encoder_block", *self._any_fused_call(), backend="cpu")
        else:
            for op in ("block_attention", "correlation_attention"):
                routing.select(op, backend=self.backend)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "Intraformer":
        """The module with the settings of a preset ("small", "small-paper" or "paper"), any constructor argument overridden by name.

        Raises:
            ValueError: there is no such preset.
        """
        return cls(**{**preset(name).model, **overrides})

    @property
    def compute(self) -> str:
        """What the linear layers of the blocks multiply: "float" (float32, or what autocast says), or "int8".

        With "int8" the blocks run on the CPU and without gradients alone: a step of quantization a token and one an output channel,
        sums in int32, everything else in float32 (csrc/encoder_block/op.h). Faster, and less exact; it is no part of the state.

        Raises:
            ValueError: there is no such way to compute.
            NotImplementedError: on assignment or in a later call, int8 cannot be served; the message says why.
        """
        return self._compute

    @compute.setter
    def compute(self, value: str) -> None:
        if value not in COMPUTES:
            raise ValueError(f"compute = {value!r}: expected one of {', '.join(map(repr, COMPUTES))}")
        if value == "int8":
            self._check_int8(*self._any_fused_call())
        self._compute = value

    def _any_fused_call(self) -> tuple[Any, ...]:
        """Arguments for the routing of a fused block that only the model's own sizes can spoil."""
        tokens = torch.empty(0, 0, self.embed_dim, device="cpu", dtype=torch.float32)
        return tokens, None, [], self._packed_sizes(self.blocks[0]), 0.0  # type: ignore[arg-type]

    def _check_int8(self, *call: Any) -> None:
        reasons = routing.not_supported_reasons("encoder_block", "cpu", *call)
        if self.backend not in ("auto", "cpu"):
            reasons.append(f"the model was made with backend={self.backend!r}")
        if reasons:
            raise NotImplementedError(
                f"compute='int8' cannot be served: {'; '.join(reasons)}; it is for inference on the CPU, "
                "compute='float' for everything"
            )

    def train(self, mode: bool = True) -> "Intraformer":
        """As `torch.nn.Module.train`; going into training also frees the packed weights of inference."""
        if mode:
            for block in self.blocks:
                forget(block)
        return super().train(mode)

    def _block(self, block: Block, tokens: Tensor, valid: Tensor | None, bounds: Bounds) -> Tensor:
        if self.backend in ("auto", "cpu"):
            streams = [_stream_parameters(block, m) for m in range(len(block.layers))]
            parameters = [p for stream in streams for p in stream]
            sizes = self._packed_sizes(block)
            dropout = block.dropout.p if block.dropout.training else 0.0
            call = (tokens, valid, parameters, sizes, dropout)
            if self.compute == "int8":
                self._check_int8(*call)
            module = routing.select(
                "encoder_block",
                *call,
                backend="cpu" if self.compute == "int8" else self.backend,
                candidates=lambda: {
                    "cpu": lambda: self._fused_block(block, tokens, valid, streams, sizes),
                    "reference": lambda: self._unfused_block(block, tokens, valid, bounds),
                },
            )
            if module is encoder_block:
                return self._fused_block(block, tokens, valid, streams, sizes)
        return self._unfused_block(block, tokens, valid, bounds)

    def forward_graph(self, features: Tensor, neighbors: Tensor) -> Tensor:
        """As the reference's. Where the first block sees nothing of a token but its feature (`tokens="features"`, `position="none"`
        and no `similarity_input`; a rank moves what the norm in front of the projections sees), and clusters overlap so much that it is
        less work, queries, keys and values of the first block, and the anchor of its C-ATT, are made once a sample instead of once a
        place."""
        table = self._sample_tokens(features, neighbors)
        if table is None:
            return super().forward_graph(features, neighbors)
        block: Block = self.blocks[0]  # type: ignore[assignment]
        bounds = reference.subcluster_bounds(neighbors.shape[1], self.num_subclusters)
        attended = []
        for m, (start, stop) in enumerate(bounds):
            q, k, v = split_heads(block.layer(m).project(table)[None], self.num_heads)
            places = (*(t[0].transpose(0, 1) for t in (q, k, v)), neighbors[:, start:stop])
            module = routing.select("gather_block_attention", *places, backend=self.backend)
            attended.append(module.gather_block_attention(*places, 1))
        valid = neighbors >= 0
        # A padded token of the anchor may ask on behalf of a member that is none, so it has to be what it is without tables.
        padding = self._project_features(features.new_zeros(self.input_dim))
        tokens = torch.where(valid[..., None], table[neighbors.clamp(min=0)], padding)
        anchor = neighbors[:, : bounds[0][1]]
        if self.cross_query == "anchor":
            table, anchor = torch.cat([table, padding[None]]), anchor.masked_fill(anchor < 0, len(table))
        together = merge_heads(torch.cat(attended, dim=2))
        merged = self._merges_streams(block, tokens)
        tokens = self._after_attention(block, tokens, together, valid, bounds, merged, samples=(table, anchor))
        return self._logits(tokens, valid, first=1)

    def _sample_tokens(self, features: Tensor, neighbors: Tensor) -> Tensor | None:
        """The tokens [N, d] of all samples as they enter the first block, or None where a place has a token of its own, or where
        projecting every sample for each of the k streams would be more work than projecting every place."""
        if self.tokens != "features" or self.position != "none" or self.similarity_projection is not None:
            return None
        if self.backend == "reference" or self.compute == "int8":
            return None
        if features.dim() != 2 or neighbors.dim() != 2 or features.shape[1] != self.input_dim:
            return None
        if len(features) * self.num_subclusters > neighbors.numel():
            return None
        return self._project_features(features)

    def _project_features(self, features: Tensor) -> Tensor:
        return features if self.input_projection is None else self.input_projection(features)

    def _unfused_block(self, block: Block, tokens: Tensor, valid: Tensor | None, bounds: Bounds) -> Tensor:
        merged = self._merges_streams(block, tokens)
        if merged:
            layers = _layers(block, len(bounds))
            projected = stream_linear.stream_linear(
                tokens, [layer.query_key_value for layer in layers], norms=[layer.norm_attention for layer in layers]
            )
        else:
            projected = torch.cat(
                [block.layer(m).project(tokens[:, start:stop]) for m, (start, stop) in enumerate(bounds)], dim=1
            )
        q, k, v = split_heads(projected, self.num_heads)
        # One attention over all streams: the blocks of block_attention are the sub-clusters.
        module = routing.select("block_attention", q, k, v, valid, len(bounds), backend=self.backend)
        attended = module.block_attention(q, k, v, len(bounds), valid=valid)
        return self._after_attention(block, tokens, merge_heads(attended), valid, bounds, merged)

    def _after_attention(
        self,
        block: Block,
        tokens: Tensor,
        attended: Tensor,
        valid: Tensor | None,
        bounds: Bounds,
        merged: bool,
        samples: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """What follows the self-attention of all streams, `attended` [B, n, d]. `merged`: their linear layers are one call."""
        layers = _layers(block, len(bounds))
        if merged:
            outputs = [layer.attention_output for layer in layers]
            added = self._add_linear(block, tokens, attended, outputs)
            hidden = [added[:, start:stop] for start, stop in bounds]
        else:
            hidden = [
                layer.add_attention(tokens[:, start:stop], attended[:, start:stop])
                for layer, (start, stop) in zip(layers, bounds, strict=True)
            ]
        if len(hidden) > 1 and block.cross is not None:
            answers = self._cross_streams(block, hidden[1:], tokens[:, : bounds[0][1]], valid, samples)
            hidden[1:] = [h + answer for h, answer in zip(hidden[1:], answers, strict=True)]
        if not merged:
            return torch.cat([layer.add_ffn(h) for layer, h in zip(layers, hidden, strict=True)], dim=1)
        if len(hidden) > 1:
            added = torch.cat(hidden, dim=1)
        inside = stream_linear.stream_linear(
            added, [layer.ffn_up for layer in layers], norms=[layer.norm_ffn for layer in layers]
        )
        return self._add_linear(block, added, inside, [layer.ffn_down for layer in layers], gelu=True)

    def _merges_streams(self, block: Block, tokens: Tensor) -> bool:
        """Whether the linear layers of all streams are one call."""
        if self.backend != "auto":
            return False
        parameters = [p for layer in block.layers for p in layer.parameters()]
        widths = (self.embed_dim, block.layer(0).ffn_up.out_features)
        return routing.select("stream_linear", tokens, parameters, widths) is stream_linear

    def _add_linear(
        self, block: Block, tokens: Tensor, input: Tensor, linears: list[nn.Linear], gelu: bool = False
    ) -> Tensor:
        """Residual after a linear layer of each stream, with dropout where that is in force."""
        if block.dropout.training and block.dropout.p:
            return tokens + block.dropout(stream_linear.stream_linear(input, linears, gelu=gelu))
        return stream_linear.stream_linear(input, linears, gelu=gelu, residual=tokens)

    def _cross_streams(
        self,
        block: Block,
        members: list[Tensor],
        anchor: Tensor,
        valid: Tensor | None,
        samples: tuple[Tensor, Tensor] | None,
    ) -> Sequence[Tensor]:
        """What C-ATT adds to the tokens of the streams 1..k-1, `members`; `anchor` is stream 0, `valid` covers all of them.

        `samples`, where the anchor's tokens are those of their samples: a table [N, d] of these, and int[B, s] which stand there.
        """
        cross = block.cross
        assert cross is not None
        sizes = [member.shape[1] for member in members]
        anchor_valid = None if valid is None else valid[:, : anchor.shape[1]]
        member_valid = None if valid is None else valid[:, anchor.shape[1] :]
        # The anchor is never shorter than a member: it stands for either as the context.
        module = routing.select(
            "correlation_attention", members[0], anchor, cross.weight, anchor_valid, backend=self.backend
        )
        if module is not correlation_attention:
            masks = [None] * len(sizes) if member_valid is None else member_valid.split(sizes, dim=1)
            return [
                self._cross(block, m, member, anchor, mask, anchor_valid, module.correlation_attention)
                for m, (member, mask) in enumerate(zip(members, masks, strict=True), start=1)
            ]
        norms = [cross.norm_members[min(m, len(cross.norm_members) - 1)] for m in range(len(members))]
        tokens = torch.cat([norm(member) for norm, member in zip(norms, members, strict=True)], dim=1)
        weight, num_streams, anchor_asks = cross.weight, len(members), self.cross_query == "anchor"
        if samples is None or anchor.device.type not in ANCHOR_FROM_TABLE:
            anchor = cross.norm_anchor(anchor)
            answer = correlation_attention.cross_attention(
                tokens, anchor, weight, member_valid, anchor_valid, num_streams=num_streams, anchor_asks=anchor_asks
            )
        else:
            table, ids = samples
            anchor = cross.norm_anchor(table)
            call = Call(tokens, anchor, weight, member_valid, None, num_streams, anchor_asks, anchor_ids=ids)
            answer = gather_correlation_attention.cross_attention(call)
        return block.dropout(answer).split(sizes, dim=1)

    def _packed_sizes(self, block: Block) -> encoder_block.Sizes:
        compute = "int8" if self.compute == "int8" else encoder_block.compute_of_autocast()
        return encoder_block.Sizes(self.num_heads, block.layer(0).ffn_up.out_features, compute)

    def _fused_block(
        self,
        block: Block,
        tokens: Tensor,
        valid: Tensor | None,
        streams: list[list[Tensor]],
        sizes: encoder_block.Sizes,
    ) -> Tensor:
        packed = packed_weights(block, streams, sizes)
        packed = [packed[min(m, len(packed) - 1)] for m in range(self.num_subclusters)]
        call = partial(
            encoder_block.encoder_block,
            sizes=sizes,
            anchor_asks=self.cross_query == "anchor",
            epsilon=block.layer(0).norm_attention.eps,
        )
        if block.cross is not None or len(packed) == 1:
            return call(tokens, valid, packed)
        bounds = reference.subcluster_bounds(tokens.shape[1], len(packed))
        alone = [
            call(tokens[:, start:stop], None if valid is None else valid[:, start:stop], [weights])
            for (start, stop), weights in zip(bounds, packed, strict=True)
        ]
        return torch.cat(alone, dim=1)


def _layers(block: Block, streams: int) -> list[StreamLayer]:
    return [block.layer(m) for m in range(streams)]


def _stream_parameters(block: Block, stream: int) -> list[Tensor]:
    """In the order of csrc/encoder_block/op.h."""
    layer = block.layer(stream)
    modules: list[nn.LayerNorm | nn.Linear] = [
        layer.norm_attention,
        layer.query_key_value,
        layer.attention_output,
        layer.norm_ffn,
        layer.ffn_up,
        layer.ffn_down,
    ]
    parameters: list[Tensor] = [p for module in modules for p in (module.weight, module.bias)]
    if stream > 0 and (cross := block.cross) is not None:
        parameters.append(cross.weight[stream - 1])
        for norm in (cross.norm_members[stream - 1], cross.norm_anchor):
            parameters += [norm.weight, norm.bias]  # type: ignore[list-item]
    return parameters
