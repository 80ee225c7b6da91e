"""The drop-in Intraformer: the reference's parameters, the library's ops."""

from typing import Any

import torch
from torch import Tensor

from intraformer_fast import reference
from intraformer_fast.ops import routing
from intraformer_fast.presets import preset
from intraformer_fast.reference.intraformer import Block, Bounds, merge_heads, split_heads


class Intraformer(reference.Intraformer):
    __doc__ = reference.Intraformer.__doc__

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A backend that cannot serve is refused here, not at the first call.
        for op in ("block_attention", "correlation_attention"):
            routing.select(op, backend=self.backend)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "Intraformer":
        """The module with the settings of a preset ("paper" or "small"), any constructor argument overridden by name.

        Raises:
            ValueError: there is no such preset.
        """
        return cls(**{**preset(name).model, **overrides})

    def _block(self, block: Block, tokens: Tensor, valid: Tensor | None, bounds: Bounds) -> Tensor:
        block_attention = routing.select("block_attention", backend=self.backend).block_attention
        correlation_attention = routing.select("correlation_attention", backend=self.backend).correlation_attention
        streams = [tokens[:, start:stop] for start, stop in bounds]
        masks = [None if valid is None else valid[:, start:stop] for start, stop in bounds]
        projected = torch.cat([block.layer(m).project(h) for m, h in enumerate(streams)], dim=1)
        q, k, v = split_heads(projected, self.num_heads)
        # One attention over all streams: the blocks of block_attention are the sub-clusters.
        attended = merge_heads(block_attention(q, k, v, len(bounds), valid=valid))
        outputs = []
        for m, (start, stop) in enumerate(bounds):
            layer = block.layer(m)
            h = layer.add_attention(streams[m], attended[:, start:stop])
            if m > 0:
                h = h + self._cross(block, m, h, streams[0], masks[m], masks[0], correlation_attention)
            outputs.append(layer.add_ffn(h))
        return torch.cat(outputs, dim=1)
