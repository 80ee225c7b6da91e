"""The settings of a training."""

import math
import numbers
import operator
from dataclasses import dataclass
from typing import Any

import torch

from intraformer_fast import nn
from intraformer_fast.precision import resolve_precision
from intraformer_fast.presets import preset

# Smallest value of each whole number.
WHOLE = {"epochs": 1, "batch_size": 1, "warmup_steps": 0, "seed": 0, "checkpoint_every": 1}


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The defaults are the paper's (section VI) where it gives a figure.

    Attributes:
        epochs: passes over the training clusters. 10, the paper's.
        batch_size: clusters a step, at most: an epoch is cut into near-equal batches. 64; the paper gives no figure.
        learning_rate: the highest. 1e-4, the paper's.
        weight_decay: decoupled (AdamW). 0, which makes it Adam, the paper's.
        gradient_clip: the largest gradient norm; None for no limit. 1.0, against wild first batches.
        warmup_steps: the learning rate rises linearly over these, which are at most a tenth of the training, and falls
            along a cosine to 0 over the whole of it. 100, in which Adam's second moments settle.
        precision: "fp32", "bf16" (autocast: products in bfloat16, weights in float32), or "auto", the default: bf16
            where the device is fast at it.
        seed: of the order of the clusters and of dropout, below 2^63. 0. A model's first weights are drawn where it is made.
        accuracy_loss: "fmi", or "bce" for cross-entropy throughout. This and the next seven are `IntraformerLoss`'s.
        bce_warmup: "ramp", the default, "step", "sum" or "none", which collapses.
        warmup_end: fraction of the training at which that warm-up ends. None: 1 for "ramp", 1/3 for "step".
        bound: "dice" (Eq. 10), the default, or "exact" (Eq. 8).
        fairness_weight: lambda at the end. 1, the paper's.
        fairness_warmup: fraction of the training during which lambda is 0. 0.3; the paper gives no figure.
        fairness_point: "mean", the paper's, "median" or a quantile in (0, 1).
        detach_fairness_point: whether gamma_f is a constant to the gradient. True.
        checkpoint_every: steps between two checkpoints; there is one after each epoch as well. 200.

    Raises:
        ValueError: a value is out of range. TypeError: it is no number, or not a whole one.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    warmup_steps: int = 100
    precision: str = "auto"
    seed: int = 0
    accuracy_loss: str = "fmi"
    bce_warmup: str = "ramp"
    warmup_end: float | None = None
    bound: str = "dice"
    fairness_weight: float = 1.0
    fairness_warmup: float = 0.3
    fairness_point: str | float = "mean"
    detach_fairness_point: bool = True
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name, smallest in WHOLE.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, operator.index(value))
            except TypeError:
                raise TypeError(f"{name} = {value!r}: expected a whole number") from None
            if not smallest <= value < 2**63:
                raise ValueError(f"{name} = {value}: expected at least {smallest} and below 2^63")
        for name, zero_allowed in (("learning_rate", False), ("weight_decay", True), ("gradient_clip", False)):
            value = getattr(self, name)
            if value is None and name == "gradient_clip":
                continue
            if not isinstance(value, numbers.Real):
                raise TypeError(f"{name} = {value!r}: expected a number")
            number = float(value)
            object.__setattr__(self, name, number)
            if not (0 < number < math.inf or (zero_allowed and number == 0)):
                raise ValueError(f"{name} = {value}: expected {'at least' if zero_allowed else 'above'} 0 and finite")
        resolve_precision(self.precision, torch.device("cpu"))
        self.objective()

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "TrainingConfig":
        """The settings of a preset ("small", "small-paper" or "paper"), any of them overridden by name.

        Raises:
            ValueError: there is no such preset, or a value is out of range. TypeError: there is no such setting.
        """
        return cls(**{**preset(name).training, **overrides})

    def objective(self) -> nn.IntraformerLoss:
        """The loss with these options."""
        return nn.IntraformerLoss(
            accuracy_loss=self.accuracy_loss,
            bce_warmup=self.bce_warmup,
            warmup_end=self.warmup_end,
            bound=self.bound,
            fairness_weight=self.fairness_weight,
            fairness_warmup=self.fairness_warmup,
            fairness_point=self.fairness_point,
            detach_fairness_point=self.detach_fairness_point,
        )

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of a step, the first being 0, in a training of `total_steps`."""
        warmup = min(self.warmup_steps, total_steps // 10)
        risen = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return self.learning_rate * risen * 0.5 * (1 + math.cos(math.pi * step / total_steps))
