"""Whether a candidate computes what it claims to: its error beside that of the eager reference in the same dtype."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ALLOWED = 2.0
"""Times the error of the eager reference."""

ROUNDING = 4
"""Units in the last place of the largest element that any candidate may be off, should the reference happen to be exact."""


class Verdict(NamedTuple):
    """The worst of all outputs and gradients.

    Attributes:
        passed: whether each is as near to float64 as is asked.
        error_ratio: max|found - exact| over max|eager - exact| (and half the allowance for rounding): at most ALLOWED. None where a
            distance of its own is allowed instead.
        relative_l2: |found - exact| / |exact|, Euclidean.
        detail: which tensor is the worst, or what else is wrong with it.
    """

    passed: bool
    error_ratio: float | None
    relative_l2: float
    detail: str


Outputs = Mapping[str, Tensor]


def check(found: Outputs, eager: Outputs, exact: Outputs, coarse: float | None = None) -> Verdict:
    """max|found - exact| <= 2 max|eager - exact| + a few units in the last place, for every output and gradient.

    Args:
        found: of a candidate.
        eager: of the reference in the same dtypes.
        exact: of the reference in float64.
        coarse: None, or the |found - exact| / |exact| that is allowed instead.
    """
    if found.keys() != eager.keys():
        return _wrong(f"returned {', '.join(found) or 'nothing'} where {', '.join(eager)} was expected")
    ratios, distances = {}, [0.0]
    for name, expected in eager.items():
        tensor = found[name]
        if (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
            of = " ".join(map(str, (tensor.dtype, tuple(tensor.shape), "where", expected.dtype, tuple(expected.shape))))
            return _wrong(f"{name} is {of} was expected")
        if not tensor.numel():
            continue
        tensor, expected, truth = tensor.detach(), expected.detach(), exact[name].detach()
        off, reference = tensor.double() - truth, expected.double() - truth
        largest = truth.abs().max()
        units = ROUNDING * torch.finfo(expected.dtype).eps * largest.clamp(min=torch.finfo(expected.dtype).tiny)
        ratios[name] = float(off.abs().max() / (reference.abs().max() + units / ALLOWED))
        distances.append(float(off.norm() / truth.norm().clamp(min=torch.finfo(torch.float64).tiny)))
    # A NaN is the worst there is, and no comparison holds for it.
    worst = max(ratios, key=lambda name: (ratios[name] != ratios[name], ratios[name]), default="")
    ratio = ratios.get(worst, 0.0)
    detail = (
        f"the error of {worst} is {ratio:.3g} times eager's, {ALLOWED:g} allowed" if worst else "nothing to compare"
    )
    if coarse is not None:
        far = max(distances, key=lambda distance: (distance != distance, distance))
        return Verdict(far <= coarse, None, far, f"off by {far:.3g} of the Euclidean norm, {coarse:g} allowed")
    return Verdict(ratio <= ALLOWED, ratio, max(distances), detail)


def _wrong(detail: str) -> Verdict:
    return Verdict(False, float("nan"), float("nan"), detail)
