"""The attentions as modules for other people's models."""

from typing import Any

import torch
from torch import Tensor, nn

from intraformer_fast import functional, reference
from intraformer_fast.ops import routing
from intraformer_fast.reference.intraformer import BACKENDS, merge_heads, split_heads


class BlockSelfAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose attention, where query, key and value are equally long, is one fused op.

    Its constructor, parameters, state_dict and call are those of `torch.nn.MultiheadAttention`, and it is one. What the op does not
    serve (weights wanted, a mask, dropout in training, biases of keys and values, other widths for them, sequences of different
    lengths, unbatched or nested ones) `torch.nn.MultiheadAttention` computes; `intraformer_fast.explain` says which.

    Args:
        args, kwargs: those of `torch.nn.MultiheadAttention`.
        num_blocks: near-equal consecutive runs of the tokens, by `numpy.array_split`'s rule; each attends to itself alone. 1, the
            default, is full attention.
        backend: "auto", "reference", "cpu" or "triton". A named one that cannot serve a call raises and says why.

    Raises:
        ValueError: an argument is out of range.
    """

    # Of a module that was made as a torch.nn.MultiheadAttention (intraformer_fast.accelerate).
    num_blocks = 1
    backend = "auto"

    def __init__(self, *args: Any, num_blocks: int = 1, backend: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if num_blocks < 1:
            raise ValueError(f"num_blocks = {num_blocks}: expected at least 1")
        self.num_blocks = num_blocks
        self.backend = check_backend(backend)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `torch.nn.MultiheadAttention.forward`, each token looking at its own run alone.

        Returns:
            (output in the shape of `query`, weights or None). As in torch, padding asks like any other token, and a token that may
            look at none becomes NaN.

        Raises:
            ValueError: with more than one block, query and key are not equally long.
            NotImplementedError: a named backend cannot serve the call.
        """
        refused = self._refused(query, key, value, key_padding_mask, need_weights, attn_mask, is_causal)
        if refused:
            routing.select("block_attention", query, key, value, backend=self.backend, refused=refused)
            if self.num_blocks > 1:
                attn_mask, is_causal = self._within_blocks(query, key, attn_mask), False
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        q, k, v = self._heads(query, key, value)
        module = routing.select("block_attention", q, k, v, None, self.num_blocks, backend=self.backend)
        attended = merge_heads(module.block_attention(q, k, v, self.num_blocks))
        return self.out_proj(attended if self.batch_first else attended.transpose(0, 1)), None

    def _refused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        is_causal: bool,
    ) -> list[str]:
        """Why torch's own attention has to compute this."""
        reasons = []
        if need_weights:
            reasons.append("the weights are wanted (need_weights=True)")
        if key_padding_mask is not None:
            reasons.append("a key_padding_mask is given: torch lets padding ask, the op does not")
        if attn_mask is not None or is_causal:
            reasons.append("an attn_mask is given")
        if self.training and self.dropout > 0:
            reasons.append("dropout is in force (eval() turns it off)")
        if not self._qkv_same_embed_dim or self.bias_k is not None or self.add_zero_attn:
            reasons.append("keys or values have a width or a bias of their own")
        if query.is_nested or query.dim() != 3 or not query.shape == key.shape == value.shape:
            reasons.append("query, key and value are not batches of the same shape")
        return reasons

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The projected queries, keys and values, each [B, H, n, D]."""
        if query is key and key is value:
            projected = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias)
            return split_heads(projected if self.batch_first else projected.transpose(0, 1), self.num_heads)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        heads = []
        for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), biases, strict=True):
            projected = nn.functional.linear(x, weight, bias).unflatten(-1, (self.num_heads, self.head_dim))
            heads.append(projected.permute(0, 2, 1, 3) if self.batch_first else projected.permute(1, 2, 0, 3))
        return heads[0], heads[1], heads[2]

    def _within_blocks(self, query: Tensor, key: Tensor, attn_mask: Tensor | None) -> Tensor:
        """`attn_mask` and, beside it, that no token looks beyond its run; as torch has masks, True or -inf where it may not."""
        axis = -2 if self.batch_first or query.dim() == 2 else 0
        n = query.shape[axis]
        if key.shape[axis] != n:
            raise ValueError(
                f"{n} queries and {key.shape[axis]} keys: blocks of self-attention need equally many, num_blocks=1 does not"
            )
        beyond = torch.ones(n, n, dtype=torch.bool, device=query.device)
        for start, stop in reference.subcluster_bounds(n, self.num_blocks):
            beyond[start:stop, start:stop] = False
        if attn_mask is None:
            return beyond
        return attn_mask | beyond if attn_mask.dtype == torch.bool else attn_mask.masked_fill(beyond, -torch.inf)


class CorrelationAttention(nn.Module):
    """C-ATT: attention through one learned correlation matrix; keys and values are the context itself (Eq. 15-17).

        O = softmax((X_q W) X_c^T) X_c

    Args:
        embed_dim: width d of a token.
        device, dtype: of the parameter.

    Attributes:
        weight: [d, d], drawn with standard deviation 1/d: scores of layer-normed rows then start near unit variance.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, embed_dim: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if embed_dim < 1:
            raise ValueError(f"embed_dim = {embed_dim}: expected at least 1")
        self.weight = nn.Parameter(torch.randn(embed_dim, embed_dim, device=device, dtype=dtype) / embed_dim)

    def forward(self, x_query: Tensor, x_context: Tensor, valid_context: Tensor | None = None) -> Tensor:
        """Arguments, result and errors as `intraformer_fast.functional.correlation_attention`, with this module's matrix."""
        return functional.correlation_attention(x_query, x_context, self.weight, valid_context=valid_context)


def check_backend(backend: str) -> str:
    """The name itself.

    Raises:
        ValueError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r}: expected one of {', '.join(map(repr, BACKENDS))}")
    return backend
