"""The stateless public ops: what goes in, what comes out, which errors, and the equation. The work is done by a backend."""

import torch
from torch import Tensor

from intraformer_fast.ops import routing

BOUNDS = ("dice", "exact")


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, num_blocks: int, *, valid: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Multi-head self-attention inside each of `num_blocks` near-equal consecutive runs of the tokens.

        O[i] = sum_j softmax_j(scale * Q[i] . K[j]) V[j],    j over the valid tokens of i's run

    The runs are those of `numpy.array_split`: where `num_blocks` does not divide n the first n mod num_blocks are one longer.

    Args:
        q, k, v: [B, H, n, D], floating point, one dtype.
        num_blocks: runs that n is cut into; 1 is full attention.
        valid: bool[B, n], False at padding. None means that there is none.
        scale: factor on the scores. None means D ** -0.5.

    Returns:
        [B, H, n, D] in the dtype of `q`; 0 at padding, with gradient 0. Whatever stands in the padding changes nothing.

    Raises:
        ValueError: a shape is wrong. TypeError: a dtype is.
    """
    if q.dim() != 4 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(
            f"q, k, v have shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}: "
            "expected the same [B, H, n, D] for all three"
        )
    _check_floating(q=q, k=k, v=v)
    _check_blocks(num_blocks)
    _check_valid(valid, (q.shape[0], q.shape[2]), "valid")
    op = routing.select("block_attention", q, k, v, valid, num_blocks).block_attention
    return op(q, k, v, num_blocks, valid=valid, scale=scale)


def correlation_attention(
    x_query: Tensor, x_context: Tensor, weight: Tensor, *, valid_context: Tensor | None = None
) -> Tensor:
    """C-ATT, attention through a learned correlation matrix; keys and values are the context itself (Eq. 15-17).

        O = softmax((X_q W) X_c^T) X_c

    Args:
        x_query: [..., s_q, d], floating point.
        x_context: [..., s_c, d], the same leading dimensions and dtype.
        weight: [d, d], the correlation matrix W. No scale is applied.
        valid_context: bool[..., s_c], False at padding. None means that there is none.

    Returns:
        [..., s_q, d] in the dtype of `x_query`; 0, with gradient 0, where no context token is valid.

    Raises:
        ValueError: a shape is wrong. TypeError: a dtype is.
    """
    width = weight.shape[-1]
    if (
        weight.shape != (width, width)
        or x_query.dim() < 2
        or x_query.shape[:-2] != x_context.shape[:-2]
        or {x_query.shape[-1], x_context.shape[-1]} != {width}
    ):
        raise ValueError(
            f"x_query, x_context, weight have shapes {tuple(x_query.shape)}, {tuple(x_context.shape)}, "
            f"{tuple(weight.shape)}: expected [..., s_q, d], [..., s_c, d] with the same leading dimensions, and [d, d]"
        )
    _check_floating(x_query=x_query, x_context=x_context, weight=weight)
    _check_valid(valid_context, tuple(x_context.shape[:-1]), "valid_context")
    op = routing.select("correlation_attention", x_query, x_context, weight, valid_context).correlation_attention
    return op(x_query, x_context, weight, valid_context=valid_context)


def gather_block_attention(
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    *,
    scale: float | None = None,
) -> Tensor:
    """`block_attention` over clusters given by neighbour ids: query, key and value of each sample are rows of tables.

    Args:
        q_table, k_table, v_table: [N, H, D], floating point, one dtype.
        neighbors: int[B, n] rows of the tables; -1 is padding.
        num_blocks: runs that n is cut into, as in `block_attention`.
        scale: factor on the scores. None means D ** -0.5.

    Returns:
        [B, H, n, D] in the dtype of `q_table`; 0 at padding.

    Raises:
        ValueError: a shape is wrong. TypeError: a dtype is. IndexError: an id is not below N; on CUDA, where raising would
            have to wait for the device, its run is NaN instead.
    """
    if q_table.dim() != 3 or q_table.shape != k_table.shape or q_table.shape != v_table.shape:
        raise ValueError(
            f"q_table, k_table, v_table have shapes {tuple(q_table.shape)}, {tuple(k_table.shape)}, "
            f"{tuple(v_table.shape)}: expected the same [N, H, D] for all three"
        )
    _check_floating(q_table=q_table, k_table=k_table, v_table=v_table)
    _check_blocks(num_blocks)
    _check_ids(neighbors, "neighbors", "[B, n]")
    arguments = q_table, k_table, v_table, neighbors, num_blocks
    op = routing.select("gather_block_attention", *arguments).gather_block_attention
    return op(*arguments, scale=scale)


def gather_correlation_attention(
    query_table: Tensor, context_table: Tensor, weight: Tensor, query_neighbors: Tensor, context_neighbors: Tensor
) -> Tensor:
    """`correlation_attention` over clusters given by neighbour ids: query and context tokens are rows of tables.

        O = softmax((X_q W) X_c^T) X_c    with X_q = query_table[query_neighbors], X_c = context_table[context_neighbors]

    Args:
        query_table: [N, d], floating point. Rows that no id names have to be finite too: where there are fewer of them than places,
            all are multiplied by W once, and the gradient of W is a product with all.
        context_table: [M, d], the same dtype; the two may be one table.
        weight: [d, d], the correlation matrix W. No scale is applied.
        query_neighbors: int[B, s_q] rows of `query_table`; -1 is padding.
        context_neighbors: int[B, s_c] rows of `context_table`; -1 is padding, which is not looked at.

    Returns:
        [B, s_q, d] in the dtype of `query_table`; 0, with gradient 0, at padding and where no context token is there.

    Raises:
        ValueError: a shape is wrong. TypeError: a dtype is. IndexError: an id is no row; on CUDA, where raising would have to wait
            for the device, what it takes part in is NaN instead: a query its own row, a context token its whole cluster.
    """
    width = weight.shape[-1]
    if (
        weight.shape != (width, width)
        or query_table.dim() != 2
        or context_table.dim() != 2
        or {query_table.shape[1], context_table.shape[1]} != {width}
    ):
        raise ValueError(
            f"query_table, context_table, weight have shapes {tuple(query_table.shape)}, {tuple(context_table.shape)}, "
            f"{tuple(weight.shape)}: expected [N, d], [M, d] and [d, d]"
        )
    _check_floating(query_table=query_table, context_table=context_table, weight=weight)
    _check_ids(query_neighbors, "query_neighbors", "[B, s_q]")
    _check_ids(context_neighbors, "context_neighbors", "[B, s_c]")
    if len(query_neighbors) != len(context_neighbors):
        raise ValueError(
            f"query_neighbors and context_neighbors have {len(query_neighbors)} and {len(context_neighbors)} clusters: "
            "expected as many"
        )
    arguments = query_table, context_table, weight, query_neighbors, context_neighbors
    return routing.select("gather_correlation_attention", *arguments).gather_correlation_attention(*arguments)


def purity_fmi(
    prediction: Tensor, target: Tensor, *, from_logits: bool = True, valid: Tensor | None = None, bound: str = "dice"
) -> tuple[Tensor, Tensor]:
    """Fowlkes-Mallows loss and purity of each cluster (Eq. 7, 8, 10).

    With q the predicted probabilities, over the valid neighbours of a cluster: TP = sum q y, P = sum q, T = sum y,

        bound="dice":   loss = (FN + FP) / (2 TP + FN + FP) = (P + T - 2 TP) / (P + T)
        bound="exact":  loss = 1 - TP / sqrt(T P)
        purity = TP / P

    Args:
        prediction: [B, n] logits, or probabilities with `from_logits=False`; floating point.
        target: [B, n], 1 where a neighbour has the centroid's identity, else 0; bool, integer or floating point.
        from_logits: whether the sigmoid is still to be applied.
        valid: bool[B, n], False at padding. None means that there is none.
        bound: "dice", the bound of Eq. 10 that the paper trains with, or "exact", Eq. 8.

    Returns:
        (loss [B], purity [B]), float32 (float64 for float64 predictions). Where a denominator is 0 the purity is 0, and the
        loss is 0 with nothing predicted and nothing to find, 1 with only one of them. A NaN prediction makes its own
        row's loss and purity NaN and no other's.

    Raises:
        ValueError: a shape or `bound` is wrong; or, from the native CPU op, a valid target is neither 0 nor 1. Where the
            check would have to wait for a device, or the reference serves, such a target makes its row NaN instead.
        TypeError: a dtype is wrong.
    """
    if prediction.dim() != 2 or prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target have shapes {tuple(prediction.shape)} and {tuple(target.shape)}: "
            "expected the same [B, n] for both"
        )
    _check_floating(prediction=prediction)
    if target.is_complex():
        raise TypeError(f"target is {target.dtype}: expected bool, an integer or a real dtype")
    _check_valid(valid, tuple(prediction.shape), "valid")
    if bound not in BOUNDS:
        raise ValueError(f"bound = {bound!r}: expected one of {', '.join(map(repr, BOUNDS))}")
    op = routing.select("purity_fmi", prediction, target, valid).purity_fmi
    return op(prediction, target, from_logits=from_logits, valid=valid, bound=bound)


def _check_floating(**tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    # Under autocast the products bring mixed dtypes together themselves.
    mixed = any(t.dtype != first.dtype for t in tensors.values()) and not torch.is_autocast_enabled(first.device.type)
    if mixed or not all(t.is_floating_point() for t in tensors.values()):
        found = ", ".join(f"{name} {t.dtype}" for name, t in tensors.items())
        raise TypeError(f"{found}: expected one floating-point dtype" + (" for all" if len(tensors) > 1 else ""))


def _check_blocks(num_blocks: int) -> None:
    if num_blocks < 1:
        raise ValueError(f"num_blocks = {num_blocks}: expected at least 1")


def _check_ids(ids: Tensor, name: str, shape: str) -> None:
    if ids.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(ids.shape)}: expected {shape}")
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} is {ids.dtype}: expected torch.int64 or torch.int32")


def _check_valid(valid: Tensor | None, shape: tuple[int, ...], name: str) -> None:
    if valid is None:
        return
    if valid.dtype != torch.bool:
        raise TypeError(f"{name} is {valid.dtype}: expected torch.bool, True where a neighbour is real")
    if tuple(valid.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(valid.shape)}: expected {shape}")
