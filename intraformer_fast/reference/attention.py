"""The two attentions of the model, written as their equations. They run in the dtype of their input, float64 included."""

import torch
from torch import Tensor

from intraformer_fast.reference.decomposition import subcluster_bounds


def masked_softmax(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Softmax over the last axis, over the valid columns alone; a row without one gives zeros, and a gradient of zero.

    `scores` [..., s], `valid` bool, broadcastable to it. Half-precision scores are normalised in float32, as every backend does.
    """
    dtype = scores.dtype
    if dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    if valid is None:
        return scores.softmax(-1).to(dtype)
    # A row with no valid column would be 0/0: it is normalised over zeros instead and cleared afterwards.
    scores = scores.masked_fill(~valid, -torch.inf)
    scores = scores.masked_fill(~valid.any(-1, keepdim=True), 0.0)
    return scores.softmax(-1).masked_fill(~valid, 0.0).to(dtype)


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, num_blocks: int, *, valid: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Self-attention inside each run of tokens; see `intraformer_fast.functional.block_attention`."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if valid is not None:
        # Zero times NaN is NaN: what stands in the padding must not reach the product with the probabilities.
        padding = ~valid[:, None, :, None]
        q, k, v = (t.masked_fill(padding, 0.0) for t in (q, k, v))
    outputs = []
    for start, stop in subcluster_bounds(q.shape[2], num_blocks):
        scores = scale * q[:, :, start:stop] @ k[:, :, start:stop].transpose(-1, -2)
        keys = None if valid is None else valid[:, None, None, start:stop]
        outputs.append(masked_softmax(scores, keys) @ v[:, :, start:stop])
    output = torch.cat(outputs, dim=2)
    return output if valid is None else output.masked_fill(padding, 0.0)


def correlation_attention(
    x_query: Tensor, x_context: Tensor, weight: Tensor, *, valid_context: Tensor | None = None
) -> Tensor:
    """C-ATT (Eq. 15-17): the context is key and value; see `intraformer_fast.functional.correlation_attention`."""
    if valid_context is not None:
        x_context = x_context.masked_fill(~valid_context[..., None], 0.0)
    scores = (x_query @ weight) @ x_context.transpose(-1, -2)
    keys = None if valid_context is None else valid_context[..., None, :]
    return masked_softmax(scores, keys) @ x_context


def gather_block_attention(
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    *,
    scale: float | None = None,
) -> Tensor:
    """Block attention over rows of tables; see `intraformer_fast.functional.gather_block_attention`."""
    valid = neighbors >= 0
    rows = neighbors.clamp(min=0)
    q, k, v = (table[rows].transpose(1, 2) for table in (q_table, k_table, v_table))
    return block_attention(q, k, v, num_blocks, valid=valid, scale=scale)


def gather_correlation_attention(
    query_table: Tensor, context_table: Tensor, weight: Tensor, query_neighbors: Tensor, context_neighbors: Tensor
) -> Tensor:
    """C-ATT over rows of tables; see `intraformer_fast.functional.gather_correlation_attention`."""
    padding = (query_neighbors < 0)[..., None]
    x_query = query_table[query_neighbors.clamp(min=0)].masked_fill(padding, 0.0)
    x_context = context_table[context_neighbors.clamp(min=0)]
    output = correlation_attention(x_query, x_context, weight, valid_context=context_neighbors >= 0)
    return output.masked_fill(padding, 0.0)
