"""Linear layers in int8, the specification of `compute="int8"`."""

import torch
from torch import Tensor

# The largest magnitude of a row is so many steps.
STEPS = 127
# Rows of nothing larger count as zeros: the reciprocal of their step would be infinite.
LEAST = 2.0**-100


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric quantization of rows: x [..., K] -> (whole numbers of the same dtype within +-127, steps [..., 1]).

    The step of a row is max|x| / 127, and NaN where a number of the row is not finite; ties round to even.
    """
    largest = x.abs().amax(-1, keepdim=True)
    steps_a_unit = torch.where(largest < LEAST, 0.0, STEPS / largest)
    return (x * steps_a_unit).round(), torch.where(largest.isfinite(), largest / STEPS, torch.nan)


def quantized_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, group: int | None = None) -> Tensor:
    """x weight^T + bias of quantized x and weight: a step for each row of x, and one for each row of the weight.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].
        group: channels of x that have a step of their own, K where it is None; the last group may be shorter.

    Returns:
        [..., N], sums of a group in whole numbers, those of groups as floats.
    """
    w, weight_step = quantize(weight)
    group = x.shape[-1] if group is None else group
    result = torch.zeros((), dtype=x.dtype)
    for part, columns in zip(x.split(group, -1), w.split(group, -1), strict=True):
        q, step = quantize(part)
        # float64 holds the sums of integers exactly.
        sums = q.double() @ columns.double().mT
        result = result + sums.to(x.dtype) * (step * weight_step.mT)
    return result if bias is None else result + bias
