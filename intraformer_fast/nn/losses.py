"""The training objective: accuracy (Fowlkes-Mallows, warmed up by cross-entropy) plus fairness (purity consistency)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast import functional
from intraformer_fast.ops import routing
from intraformer_fast.reference.losses import masked_mean

ACCURACY_LOSSES = ("fmi", "bce")
BCE_WARMUPS = ("ramp", "step", "sum", "none")
FAIRNESS_POINTS = ("mean", "median")


class LossTerms(NamedTuple):
    """The objective and its parts, each a scalar tensor; `purity` is the batch mean of the clusters' purities."""

    total: Tensor
    fmi: Tensor
    bce: Tensor
    fairness: Tensor
    purity: Tensor


class IntraformerLoss(nn.Module):
    """L = L_accuracy + lambda(t) L_fair (section IV of the paper), t the fraction of the training that is done.

        L_FMI  = mean over clusters of (FN + FP) / (2 TP + FN + FP)            (Eq. 10; or Eq. 8 with bound="exact")
        L_fair = mean over clusters of |gamma_i - gamma_f|,  gamma = TP / P    (Eq. 12, Eq. 7)

    A model trained from scratch on L_FMI alone collapses to one constant answer for every cluster, so cross-entropy starts it.

    Args:
        accuracy_loss: "fmi", or "bce" for cross-entropy throughout.
        bce_warmup: how cross-entropy leads into L_FMI: "ramp" (weight of L_FMI rises linearly from 0 at t = 0 to 1 at
            t = `warmup_end`, that of cross-entropy falls), "step" (cross-entropy alone before t = `warmup_end`, L_FMI alone
            from there), "sum" (both, always), "none" (L_FMI alone: collapses, kept for the ablation).
        warmup_end: None means 1 for "ramp" and 1/3 for "step".
        bound: "dice" (Eq. 10) or "exact" (Eq. 8).
        fairness_weight: lambda at the end of training. 1, the paper's.
        fairness_warmup: lambda is 0 until t = `fairness_warmup`, then rises linearly. 0.3 by default; the paper gives no figure.
        fairness_point: gamma_f of a batch: "mean" (the paper's), "median", or a quantile in (0, 1).
        detach_fairness_point: whether gamma_f is a constant to the gradient. On by default.
        threshold: None for training. A number in (0, 1) scores hard decisions q > threshold, as reports do; no gradient then
            flows through L_FMI and L_fair.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        accuracy_loss: str = "fmi",
        bce_warmup: str = "ramp",
        warmup_end: float | None = None,
        bound: str = "dice",
        fairness_weight: float = 1.0,
        fairness_warmup: float = 0.3,
        fairness_point: str | float = "mean",
        detach_fairness_point: bool = True,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("accuracy_loss", accuracy_loss, ACCURACY_LOSSES),
            ("bce_warmup", bce_warmup, BCE_WARMUPS),
            ("bound", bound, functional.BOUNDS),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: expected one of {', '.join(map(repr, known))}")
        if isinstance(fairness_point, str):
            if fairness_point not in FAIRNESS_POINTS:
                raise ValueError(
                    f"fairness_point = {fairness_point!r}: expected 'mean', 'median' or a number in (0, 1)"
                )
        elif not 0 < fairness_point < 1:
            raise ValueError(f"fairness_point = {fairness_point}: expected 'mean', 'median' or a number in (0, 1)")
        if not 0 <= fairness_weight < math.inf:
            raise ValueError(f"fairness_weight = {fairness_weight}: expected a finite number, at least 0")
        if not 0 <= fairness_warmup < 1:
            raise ValueError(f"fairness_warmup = {fairness_warmup}: expected a fraction of the training in [0, 1)")
        if warmup_end is not None and not 0 < warmup_end <= 1:
            raise ValueError(f"warmup_end = {warmup_end}: expected a fraction of the training in (0, 1]")
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"threshold = {threshold}: expected None or a probability in (0, 1)")
        self.accuracy_loss = accuracy_loss
        self.bce_warmup = bce_warmup
        self.warmup_end = {"step": 1 / 3}.get(bce_warmup, 1.0) if warmup_end is None else warmup_end
        self.bound = bound
        self.fairness_weight = fairness_weight
        self.fairness_warmup = fairness_warmup
        self.fairness_point = fairness_point
        self.detach_fairness_point = detach_fairness_point
        self.threshold = threshold

    def weights(self, progress: float) -> tuple[float, float, float]:
        """Weights of cross-entropy, L_FMI and L_fair when the fraction `progress` of the training is done."""
        risen = max(0.0, progress - self.fairness_warmup) / (1 - self.fairness_warmup)
        fairness = self.fairness_weight * min(1.0, risen)
        if self.accuracy_loss == "bce":
            return 1.0, 0.0, fairness
        if self.bce_warmup == "sum":
            return 1.0, 1.0, fairness
        if self.bce_warmup == "ramp":
            fmi = min(1.0, progress / self.warmup_end)
        else:
            fmi = 1.0 if self.bce_warmup == "none" or progress >= self.warmup_end else 0.0
        return 1.0 - fmi, fmi, fairness

    def forward(self, logits: Tensor, target: Tensor, valid: Tensor | None = None, *, progress: float = 1.0) -> Tensor:
        """The objective, a scalar.

        Args:
            logits: [B, n].
            target: [B, n], 1 where a neighbour has the centroid's identity, else 0; bool, integer or floating point.
            valid: bool[B, n], False at padding. Rows without a valid neighbour count nowhere.
            progress: t, the fraction of the training that is done. 1, the default, is the final objective.
        """
        return self.terms(logits, target, valid, progress=progress).total

    def terms(self, logits: Tensor, target: Tensor, valid: Tensor | None = None, *, progress: float = 1.0) -> LossTerms:
        """The objective and its parts; arguments as `forward`."""
        if self.threshold is None:
            fmi, purity = functional.purity_fmi(logits, target, valid=valid, bound=self.bound)
        else:
            decided = (logits.sigmoid() > self.threshold).to(logits.dtype)
            fmi, purity = functional.purity_fmi(decided, target, from_logits=False, valid=valid, bound=self.bound)
        counted = None if valid is None else valid.any(-1)
        means = routing.select("purity_fmi_means", fmi, purity, counted).purity_fmi_means
        fmi_mean, purity_mean, fairness = means(fmi, purity, counted=counted, detach_point=self.detach_fairness_point)
        if self.fairness_point != "mean":
            point = self._quantile(purity, counted)
            fairness = masked_mean((purity - (point.detach() if self.detach_fairness_point else point)).abs(), counted)
        elementwise = F.binary_cross_entropy_with_logits(
            logits.to(purity.dtype) if valid is None else logits.to(purity.dtype).masked_fill(~valid, 0.0),
            target.to(purity.dtype),
            reduction="none",
        )
        bce = masked_mean(elementwise, valid)
        w_bce, w_fmi, w_fairness = self.weights(progress)
        return LossTerms(w_bce * bce + w_fmi * fmi_mean + w_fairness * fairness, fmi_mean, bce, fairness, purity_mean)

    def _quantile(self, purity: Tensor, counted: Tensor | None) -> Tensor:
        if len(purity) == 0:
            return purity.sum()
        quantile = 0.5 if isinstance(self.fairness_point, str) else self.fairness_point
        # nanquantile leaves the uncounted rows out at a fixed shape, so that nothing waits for the device.
        counting = purity if counted is None else purity.masked_fill(~counted, torch.nan)
        return counting.nanquantile(quantile).nan_to_num(0.0)
