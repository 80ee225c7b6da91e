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
    q = q.masked_fill((y != 0) & (y != 1), torch.nan)  # no such target: its row must not pass for a result
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


def masked_mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean over the counted entries; 0, not NaN, where there is none."""
    if counted is None:
        return values.sum() / max(values.numel(), 1)
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def purity_fmi_means(
    loss: Tensor, purity: Tensor, *, counted: Tensor | None = None, detach_point: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the counted clusters of a batch: of the loss, of the purity (gamma_f), of |purity - gamma_f| (Eq. 12).

    Args:
        loss, purity: [B], as `purity_fmi` gives them.
        counted: bool[B]; None counts every row. Each mean is 0 where no row counts.
        detach_point: whether gamma_f inside the third mean is a constant to the gradient.
    """
    point = masked_mean(purity, counted)
    distance = (purity - (point.detach() if detach_point else point)).abs()
    return masked_mean(loss, counted), point, masked_mean(distance, counted)
