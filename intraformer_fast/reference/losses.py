"""Purity and Fowlkes-Mallows loss of each cluster (Eq. 7, 8, 10), written as their equations."""

import torch
from torch import Tensor


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 with a gradient of 0 where the denominator is 0."""
    nonzero = denominator != 0  # true of NaN, which has to come through
    return torch.where(nonzero, numerator / torch.where(nonzero, denominator, 1.0), 0.0)


def purity_fmi(
    prediction: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    valid: Tensor | None = None,
    bound: str = "dice",
) -> tuple[Tensor, Tensor]:
    """Per-cluster loss and purity; see `intraformer_fast.functional.purity_fmi`."""
    q = prediction if prediction.dtype == torch.float64 else prediction.float()
    y = target.to(q.dtype)
    if valid is not None:
        q = q.masked_fill(~valid, 0.0)
        y = y.masked_fill(~valid, 0.0)
    if from_logits:
        q = q.sigmoid()
        if valid is not None:
            q = q.masked_fill(~valid, 0.0)
    true_positive = (q * y).sum(-1)
    predicted = q.sum(-1)
    actual = y.sum(-1)
    if bound == "dice":
        # FN + FP = predicted + actual - 2 TP, and 2 TP + FN + FP = predicted + actual.
        fmi_loss = safe_divide(predicted + actual - 2 * true_positive, predicted + actual)
    else:
        product = predicted * actual
        root = torch.where(product != 0, product, 1.0).sqrt()
        # Without a predicted or without an actual positive TP is 0: nothing matches (1), unless there is nothing to match (0).
        unmatched = (predicted + actual > 0).to(q.dtype)
        fmi_loss = torch.where(product != 0, 1 - true_positive / root, unmatched)
    return fmi_loss, safe_divide(true_positive, predicted)
