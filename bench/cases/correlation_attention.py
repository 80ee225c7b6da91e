"""C-ATT of all streams of a layer in one call: ours beside the reference, stream by stream, eager and compiled."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from intraformer_fast.ops import correlation_attention as op
from intraformer_fast.ops import routing

from ..registry import EAGER, OURS, Case, Inputs, Limit, Make, Step, Work, register

VALID = 0.8
"""Share of the tokens that are no padding, where there is padding."""

BACKENDS = {"cuda": "triton", "cpu": "cpu"}


@register("correlation_attention", "C-ATT of the streams 1..k-1 with stream 0, and its gradients.")
def cases() -> Iterator[Case]:
    """The paper's size first: 256 neighbors in 4 streams of 64, width 512."""
    half = torch.bfloat16
    yield _case(128, 4, 64, 512, half)
    yield _case(128, 4, 64, 512, half, backward=False)
    yield _case(128, 4, 64, 512, half, anchor_asks=True)
    yield _case(128, 4, 64, 512, half, masked=True)
    yield _case(128, 2, 128, 512, half)
    yield _case(128, 16, 16, 512, half)
    yield _case(16, 4, 64, 512, half)
    yield _case(128, 4, 64, 512, torch.float32)
    yield _case(128, 4, 20, 128, torch.float32)


def _case(
    batch: int,
    k: int,
    size: int,
    width: int,
    dtype: torch.dtype,
    *,
    anchor_asks: bool = False,
    masked: bool = False,
    backward: bool = True,
) -> Case:
    streams = k - 1
    members = streams * size

    def inputs(generator: torch.Generator) -> Inputs:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        made = {
            "member": normal(batch, members, width).to(dtype),
            "anchor": normal(batch, size, width).to(dtype),
            "weight": (normal(streams, width, width) / width).to(dtype),
            "grad": normal(batch, members, width).to(dtype),
        }
        if masked:
            made["valid_member"] = torch.rand(batch, members, generator=generator) < VALID
            made["valid_anchor"] = torch.rand(batch, size, generator=generator) < VALID
        return made

    def attend(inputs: Inputs, member: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
        masks = inputs.get("valid_member"), inputs.get("valid_anchor")
        return op.cross_attention(member, anchor, weight, *masks, num_streams=streams, anchor_asks=anchor_asks)

    def reference(inputs: Inputs, member: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
        masks = inputs.get("valid_member"), inputs.get("valid_anchor")
        return op.streams(member, anchor, weight, *masks, streams, anchor_asks)

    def make(function: Callable[..., Tensor]) -> Make:
        return lambda inputs: _step(function, inputs, backward)

    def ours(inputs: Inputs) -> Step:
        tensors = (inputs["member"][:, :size], inputs["anchor"], inputs["weight"], inputs.get("valid_anchor"))
        # Raises, and says why, where nothing of ours serves.
        routing.select("correlation_attention", *tensors, backend=BACKENDS[tensors[0].device.type])
        return make(attend)(inputs)

    tokens, weights = batch * width * dtype.itemsize, streams * width * width * dtype.itemsize
    read, written = (members + size) * tokens + weights, members * tokens
    project, product = 2 * batch * members * width * width, 2 * batch * members * size * width
    least = Work(read + written, project + 2 * product)
    if backward:  # reads the gradient and the inputs again, writes their gradients
        least = Work(2 * (read + written) + read, 3 * project + 6 * product)
    label = f"[{batch}, {k} x {size}, {width}] {str(dtype).removeprefix('torch.')}, {'anchor' if anchor_asks else 'member'} asks"
    return Case(
        label + (", masked" if masked else "") + ("" if backward else ", forward only"),
        inputs,
        {
            OURS: ours,
            EAGER: make(reference),
            "torch.compile": lambda inputs: make(torch.compile(reference, dynamic=False))(inputs),
        },
        least,
        {
            "torch.add": Limit(_add, Work(2 * members * tokens)),
            "torch.mm": Limit(_multiply, Work((2 * members * tokens) + width * width * dtype.itemsize, project)),
        },
    )


def _step(function: Callable[..., Tensor], inputs: Inputs, backward: bool) -> Step:
    leaves = [inputs[name].detach().requires_grad_(backward) for name in ("member", "anchor", "weight")]

    def forward() -> dict[str, Tensor]:
        return {"output": function(inputs, *leaves)}

    def both() -> dict[str, Tensor]:
        outputs = forward()
        gradients = torch.autograd.grad(outputs["output"], leaves, inputs["grad"])
        return outputs | dict(zip(("grad_member", "grad_anchor", "grad_weight"), gradients, strict=True))

    return both if backward else forward


def _add(inputs: Inputs) -> Callable[[], Tensor]:
    """One pass over the members into memory that is there already."""
    source = inputs["member"]
    target = torch.empty_like(source)
    return lambda: torch.add(source, 1.0, out=target)


def _multiply(inputs: Inputs) -> Callable[[], Tensor]:
    """All members times one matrix, by the vendor's library."""
    rows, matrix = inputs["member"].flatten(0, 1), inputs["weight"][0]
    target = torch.empty_like(rows)
    return lambda: torch.mm(rows, matrix, out=target)
