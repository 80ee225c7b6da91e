"""The loss over every neighbor of every cluster: ours beside the reference, eager and compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from intraformer_fast import cost, functional, reference
from intraformer_fast.ops import routing

from ..registry import EAGER, OURS, Case, Inputs, Limit, Make, Step, Work, register

POSITIVE = 0.3
"""Share of the neighbors that are of the centroid's identity."""

VALID = 0.8
"""Share of the neighbors that are no padding, where there is padding."""


@register("purity_fmi", "Fowlkes-Mallows loss and purity of each cluster, and the gradient of both.")
def cases() -> Iterator[Case]:
    """The paper's cluster size first, then the demo's, then one batch too small to share among threads."""
    yield _case(4096, 256)
    yield _case(4096, 256, backward=False)
    yield _case(4096, 256, target_dtype=torch.int64)
    yield _case(4096, 256, masked=True)
    yield _case(4096, 256, from_logits=False)
    yield _case(512, 256, dtype=torch.bfloat16)
    yield _case(4096, 80)
    yield _case(64, 80)


def _case(
    rows: int,
    n: int,
    *,
    dtype: torch.dtype = torch.float32,
    target_dtype: torch.dtype = torch.bool,
    masked: bool = False,
    from_logits: bool = True,
    backward: bool = True,
) -> Case:
    def inputs(generator: torch.Generator) -> Inputs:
        logits = 3 * torch.randn(rows, n, generator=generator)
        made = {
            "prediction": (logits if from_logits else logits.sigmoid()).to(dtype),
            "target": (torch.rand(rows, n, generator=generator) < POSITIVE).to(target_dtype),
            "grad_loss": torch.rand(rows, generator=generator),
            "grad_purity": torch.rand(rows, generator=generator),
        }
        return made | ({"valid": torch.rand(rows, n, generator=generator) < VALID} if masked else {})

    def make(op: Callable[..., tuple[Tensor, Tensor]]) -> Make:
        return lambda inputs: _step(op, inputs, from_logits, backward)

    def ours(inputs: Inputs) -> Step:
        tensors = inputs["prediction"], inputs["target"], inputs.get("valid")
        # Raises, and says why, where the reference would serve and be timed as ours.
        routing.select("purity_fmi", *tensors, backend=tensors[0].device.type)
        return make(functional.purity_fmi)(inputs)

    label = (
        f"[{rows}, {n}] {_short(dtype)} {'logits' if from_logits else 'probabilities'}, {_short(target_dtype)} targets"
    )
    return Case(
        label + (", masked" if masked else "") + ("" if backward else ", forward only"),
        inputs,
        {
            OURS: ours,
            EAGER: make(reference.purity_fmi),
            "torch.compile": lambda inputs: make(torch.compile(reference.purity_fmi, dynamic=False))(inputs),
        },
        cost.purity_fmi(
            rows, n, item_bytes=dtype.itemsize, target_bytes=target_dtype.itemsize, masked=masked, backward=backward
        ),
        {"torch.add": Limit(_add, Work(2 * rows * n * dtype.itemsize))},
    )


def _step(op: Callable[..., tuple[Tensor, Tensor]], inputs: Inputs, from_logits: bool, backward: bool) -> Step:
    prediction = inputs["prediction"].detach().requires_grad_(backward)
    target, valid = inputs["target"], inputs.get("valid")

    def forward() -> dict[str, Tensor]:
        loss, purity = op(prediction, target, from_logits=from_logits, valid=valid)
        return {"loss": loss, "purity": purity}

    def both() -> dict[str, Tensor]:
        outputs: dict[str, Any] = forward()
        grads = inputs["grad_loss"], inputs["grad_purity"]
        (gradient,) = torch.autograd.grad(tuple(outputs.values()), prediction, grads)
        return outputs | {"gradient": gradient}

    return both if backward else forward


def _add(inputs: Inputs) -> Callable[[], Tensor]:
    """One pass over the predictions into memory that is there already."""
    source = inputs["prediction"]
    target = torch.empty_like(source)
    return lambda: torch.add(source, 1.0, out=target)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
