"""The facts of the block-attention kernels, at the paper's size and beside the kernel of FlexAttention."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from intraformer_fast import reference

from ..facts.cases import FactsCase, Small, register_facts
from ..facts.compiled import Launch
from ..facts.flex import FlexLaunch, flex_launch
from ..registry import Work

CLUSTERS, HEADS, N, WIDTH = 4096, 4, 256, 128
"""The paper's: clusters of 256 neighbors, 512 features in four heads."""

FORWARD, BACKWARD = (4, 2), (7, 5)
"""Tensors of [clusters, heads, N, width] that are read or written, and products of one block's rows by its rows."""

Make = Callable[[list[Tensor], int, int], Sequence[Launch]]
"""make([q, k, v, grad, output, three gradients], number of blocks, capability)"""


@register_facts("block_attention")
def facts() -> Iterator[FactsCase]:
    """The paper's number of sub-clusters first; one sub-cluster is full attention."""
    for blocks in (4, 2, 1):
        yield _case(f"forward, {blocks} x {N // blocks}", _forward, FORWARD, blocks)
        yield _case(f"backward, {blocks} x {N // blocks}", _backward, BACKWARD, blocks)
    yield _case("forward, 4 x 64, FlexAttention", _flex, FORWARD, 4)


def _case(label: str, make: Make, least: tuple[int, int], blocks: int) -> FactsCase:
    def tensors(clusters: int, heads: int, device: str) -> list[Tensor]:
        shape = (clusters, heads, N, WIDTH)
        return [torch.empty(shape, dtype=torch.bfloat16, device=device) for _ in range(8)]

    def work(rows: int) -> Work:
        return Work(least[0] * rows * WIDTH * 2, 2 * least[1] * rows * (N // blocks) * WIDTH)

    def small(generator: torch.Generator) -> Small:
        given = tensors(1, 1, "cpu")
        for tensor in given[:4]:
            tensor.normal_(generator=generator)
        for tensor in given[4:]:
            tensor.fill_(torch.nan)
        launches = make(given, blocks, 80)
        written = {"output": given[4]} if least == FORWARD else dict(zip("qkv", given[5:], strict=True))
        if isinstance(launches[0], FlexLaunch):
            written = {"output": launches[0].out.fill_(torch.nan)}
        expected = [
            _reference([t.to(dtype) for t in given[:4]], blocks, least) for dtype in (torch.bfloat16, torch.float64)
        ]
        return Small(launches, work(N), written, *(dict(zip(written, found, strict=True)) for found in expected))

    return FactsCase(
        f"[{CLUSTERS}, {HEADS}, {N}, {WIDTH}] bfloat16, {label}",
        lambda capability: make(tensors(CLUSTERS, HEADS, "meta"), blocks, capability),
        work(CLUSTERS * HEADS * N),
        small,
        trips=_trips,
    )


def _reference(given: list[Tensor], blocks: int, least: tuple[int, int]) -> Sequence[Tensor]:
    q, k, v, grad = given
    q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
    output = reference.block_attention(q, k, v, blocks, scale=WIDTH**-0.5)
    return [output.detach()] if least == FORWARD else torch.autograd.grad(output, (q, k, v), grad)


def _forward(given: list[Tensor], blocks: int, capability: int) -> Sequence[Launch]:
    from intraformer_fast.kernels.block_attention import configs, launch

    q, k, v, _, output, *_ = given
    plan = configs.plan(configs.HALF, WIDTH, N // blocks, capability)
    return list(launch.forward_launches(output, q, k, v, blocks, WIDTH**-0.5, plan=plan))


def _backward(given: list[Tensor], blocks: int, capability: int) -> Sequence[Launch]:
    from intraformer_fast.kernels.block_attention import configs, launch

    q, k, v, grad, _, *gradients = given
    plan = configs.plan(configs.HALF, WIDTH, N // blocks, capability)
    return list(launch.backward_launches(tuple(gradients), grad, q, k, v, blocks, WIDTH**-0.5, plan=plan))


def _flex(given: list[Tensor], blocks: int, capability: int) -> Sequence[Launch]:
    q, k, v, *_ = given
    return [flex_launch(q, k, v, blocks, min(capability, 90))]


def _trips(one: Launch) -> Sequence[int]:
    """Tiles of the run that a program goes through, once or, in `backward.queries`, twice."""
    if isinstance(one, FlexLaunch):
        return one.trips
    step = {"loop": "KEYS", "queries": "KEYS", "keys": "ROWS"}.get(one.kernel.__name__)
    if step is None:
        return ()
    longest = one.arguments["size"] + (one.arguments["longer"] > 0)
    times = 2 if one.kernel.__name__ == "queries" and not one.constexprs["ALL_KEYS"] else 1
    return [-(-longest // one.constexprs[step])] * times
