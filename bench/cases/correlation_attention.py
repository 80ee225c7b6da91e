"""C-ATT of all streams of a layer in one call: ours beside the reference, stream by stream, eager and compiled."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from intraformer_fast import cost
from intraformer_fast.ops import correlation_attention as op
from intraformer_fast.ops import routing

from ..facts.cases import FactsCase, Small, register_facts
from ..facts.compiled import Launch
from ..registry import EAGER, OURS, Case, Inputs, Limit, Make, Step, Work, register

VALID = 0.8
"""Share of the tokens that are no padding, where there is padding."""

BACKENDS = {"cuda": "triton", "cpu": "cpu"}


@register("correlation_attention", "C-ATT of the streams 1..k-1 with stream 0, and its gradients.", ("cuda",))
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

    tokens, project = batch * width * dtype.itemsize, 2 * batch * members * width * width
    least = cost.correlation_attention(
        batch, members, size, width, weights=streams, item_bytes=dtype.itemsize, backward=backward
    )
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


CLUSTERS, MEMBERS, ANCHORS, WIDTH = 4096, 192, 64, 512
"""The paper's: three streams of 64 tokens look at stream 0."""


@register_facts("correlation_attention")
def facts() -> Iterator[FactsCase]:
    """Attention alone: its products with W are matrix products like any others."""
    yield _facts_case("forward", _forward, (2, 1), 2)
    yield _facts_case("backward", _backward, (3, 2), 5)


def _facts_case(
    label: str, make: Callable[[list[Tensor], int], Launch], least: tuple[int, int], products: int
) -> FactsCase:
    """`least`: how often rows of the members and of the anchor are read or written; `products` of queries by context."""

    def tensors(clusters: int, members: int, device: str) -> list[Tensor]:
        """Z, the anchor, the gradient of the output; what is written: output, G, the gradient of the anchor."""
        sizes = (members, ANCHORS, members, members, members, ANCHORS)
        return [torch.empty((clusters, n, WIDTH), dtype=torch.bfloat16, device=device) for n in sizes]

    def work(clusters: int, members: int) -> Work:
        rows = least[0] * members + least[1] * ANCHORS
        return Work(clusters * rows * WIDTH * 2, 2 * products * clusters * members * ANCHORS * WIDTH)

    def small(generator: torch.Generator) -> Small:
        given = tensors(1, 64, "cpu")
        for tensor in given[:3]:
            tensor.normal_(std=WIDTH**-0.25, generator=generator)
        for tensor in given[3:]:
            tensor.fill_(torch.nan)
        launch = make(given, 80)
        written = {"output": given[3]} if products == 2 else {"grad_projected": given[4], "grad_anchor": given[5]}
        expected = [_attended([t.to(dtype) for t in given[:3]], products) for dtype in (torch.bfloat16, torch.float64)]
        eager, exact = (dict(zip(written, found, strict=True)) for found in expected)
        return Small([launch], work(1, 64), written, eager, exact)

    return FactsCase(
        f"[{CLUSTERS}, {MEMBERS} and {ANCHORS}, {WIDTH}] bfloat16, {label}",
        lambda capability: [make(tensors(CLUSTERS, MEMBERS, "meta"), capability)],
        work(CLUSTERS, MEMBERS),
        small,
        trips=_trips,
    )


def _attended(given: list[Tensor], products: int) -> Sequence[Tensor]:
    z, anchor, grad = (tensor.detach().requires_grad_() for tensor in given)
    output = (z @ anchor.mT).softmax(-1) @ anchor
    return [output.detach()] if products == 2 else torch.autograd.grad(output, (z, anchor), grad)


def _forward(given: list[Tensor], capability: int) -> Launch:
    from intraformer_fast.kernels.correlation_attention import launch

    z, anchor, _, output, *_ = given
    return launch.forward_launch(output, z[:, None], anchor, None, capability)


def _backward(given: list[Tensor], capability: int) -> Launch:
    from intraformer_fast.kernels.correlation_attention import launch

    z, anchor, grad, _, grad_z, grad_anchor = given
    return launch.backward_launch(grad_anchor, grad_z[:, None], grad, z[:, None], anchor, None, capability)


def _trips(one: Launch) -> Sequence[int]:
    """Of the loops that are loops still: short ones over the width are unrolled."""
    tiles = one.constexprs
    queries = MEMBERS // tiles["BM"]
    loops = {
        "whole": [queries],
        "chunked": [WIDTH // max(128, tiles.get("BK", WIDTH))],  # steps of 64 are unrolled in pairs
        "sliced": [queries, tiles.get("BW", 1) // tiles.get("BV", 1)],
    }
    return loops[one.kernel.__name__]
