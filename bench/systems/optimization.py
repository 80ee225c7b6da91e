"""Training loops that several systems share."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR


def batches(total: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All of 0..total-1 once, in random order."""
    yield from torch.randperm(total, generator=generator).split(size)


def optimizer(
    model: nn.Module, learning_rate: float, momentum: float | None, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with that momentum, or AdamW where it is None: far fewer steps to get there, for small data sets."""
    if momentum is None:
        return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


def minimize(
    model: nn.Module,
    steps: torch.optim.Optimizer,
    epochs: int,
    losses: Callable[[], Iterator[Tensor]],
) -> None:
    """Train a model over `epochs` calls of `losses`, one step a loss, along a cosine to 0; left in evaluation mode.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    schedule = CosineAnnealingLR(steps, epochs)
    model.train()
    for epoch in range(epochs):
        for loss in losses():
            if not loss.isfinite():
                raise FloatingPointError(f"the loss became {loss.item()} in epoch {epoch + 1}: lower the learning rate")
            steps.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            steps.step()
        schedule.step()
    model.eval()
