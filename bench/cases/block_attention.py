"""Block attention on a GPU beside what else serves it there; and the facts of its kernels, beside FlexAttention's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from intraformer_fast import cost, reference
from intraformer_fast.ops import block_attention, routing

from ..facts.cases import FactsCase, Small, register_facts
from ..facts.compiled import Launch
from ..facts.flex import FlexLaunch, flex_launch
from ..registry import EAGER, OURS, Case, Inputs, Limit, Make, Step, Work, register

CLUSTERS, HEADS, N, WIDTH = 4096, 4, 256, 128
"""The paper's: clusters of 256 neighbors, 512 features in four heads."""

FORWARD, BACKWARD = (4, 2), (7, 5)
"""Tensors of [clusters, heads, N, width] that are read or written, and products of one block's rows by its rows."""

Launches = Callable[[list[Tensor], int, int], Sequence[Launch]]
"""launches([q, k, v, grad, output, three gradients], number of blocks, capability)"""


@register("block_attention", "Self-attention inside the sub-clusters, and its gradients.", ("cuda",))
def cases() -> Iterator[Case]:
    """The paper's size, cut into as many sub-clusters as its Table X; then the demo's."""
    for blocks in (4, 16, 5, 2, 1):
        yield _case((256, 4, 256, 128), blocks, backward=False)
        yield _case((256, 4, 256, 128), blocks)
    yield _case((1024, 4, 80, 32), 1)
    yield _case((1024, 4, 80, 32), 4)
    yield _case((256, 4, 256, 128), 4, dtype=torch.float32)


def _case(
    shape: tuple[int, int, int, int], blocks: int, *, backward: bool = True, dtype: torch.dtype = torch.bfloat16
) -> Case:
    batch, heads, n, width = shape

    def inputs(generator: torch.Generator) -> Inputs:
        projected = torch.randn(batch, n, 3, heads, width, generator=generator).to(dtype)
        grad = torch.randn(batch, n, heads, width, generator=generator).to(dtype)
        # As the model has them: three views of one projection, the heads of a token side by side.
        return dict(zip("qkv", projected.permute(2, 0, 3, 1, 4), strict=True)) | {"grad": grad.transpose(1, 2)}

    def make(function: Callable[..., Tensor]) -> Make:
        return lambda inputs: _step(function, inputs, blocks, backward)

    def ours(inputs: Inputs) -> Step:
        # Raises, and says why, where nothing of ours serves.
        routing.select("block_attention", inputs["q"], inputs["k"], inputs["v"], None, blocks, backend="triton")
        return make(block_attention.block_attention)(inputs)

    candidates: dict[str, Make] = {OURS: ours, EAGER: make(reference.block_attention)}
    candidates["torch.compile"] = lambda inputs: make(torch.compile(reference.block_attention, dynamic=False))(inputs)
    if n % blocks == 0:
        for kind in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            candidates[f"SDPA, {kind.name.lower()}"] = make(_sdpa(kind))
    label = f"{list(shape)} in {blocks}, {str(dtype).removeprefix('torch.')}" + ("" if backward else ", forward only")
    least = cost.block_attention(*shape, blocks, item_bytes=dtype.itemsize, backward=backward)
    copied = Work(2 * batch * heads * n * width * dtype.itemsize)
    return Case(label, inputs, candidates, least, {"copy": Limit(_copy, copied)})


def _step(function: Callable[..., Tensor], inputs: Inputs, blocks: int, backward: bool) -> Step:
    leaves = [inputs[name].detach().requires_grad_(backward) for name in "qkv"]

    def step() -> Mapping[str, Tensor]:
        output = function(*leaves, blocks)
        if not backward:
            return {"output": output}
        return {"output": output} | dict(zip("qkv", torch.autograd.grad(output, leaves, inputs["grad"]), strict=True))

    return step


def _sdpa(kind: SDPBackend) -> Callable[..., Tensor]:
    """PyTorch's own, on runs that are made a batch, which copies all three."""

    def attend(q: Tensor, k: Tensor, v: Tensor, blocks: int) -> Tensor:
        batch = len(q)

        def runs(t: Tensor) -> Tensor:
            return t.unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1)

        with sdpa_kernel(kind):
            output = torch.nn.functional.scaled_dot_product_attention(runs(q), runs(k), runs(v))
        return output.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)

    return attend


def _copy(inputs: Inputs) -> Callable[[], Any]:
    """One tensor into memory that is there already."""
    source = inputs["q"].contiguous()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@register_facts("block_attention")
def facts() -> Iterator[FactsCase]:
    """The paper's number of sub-clusters first; one sub-cluster is full attention."""
    for blocks in (4, 16, 2, 1):
        yield _facts_case(f"forward, {blocks} x {N // blocks}", _forward, FORWARD, blocks)
        yield _facts_case(f"backward, {blocks} x {N // blocks}", _backward, BACKWARD, blocks)
    yield _facts_case("forward, 4 x 64, FlexAttention", _flex, FORWARD, 4)


def _facts_case(label: str, launches: Launches, least: tuple[int, int], blocks: int) -> FactsCase:
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
        made = launches(given, blocks, 80)
        written = {"output": given[4]} if least == FORWARD else dict(zip("qkv", given[5:], strict=True))
        if isinstance(made[0], FlexLaunch):
            written = {"output": made[0].out.fill_(torch.nan)}
        expected = [
            _reference([t.to(dtype) for t in given[:4]], blocks, least) for dtype in (torch.bfloat16, torch.float64)
        ]
        return Small(made, work(N), written, *(dict(zip(written, found, strict=True)) for found in expected))

    return FactsCase(
        f"[{CLUSTERS}, {HEADS}, {N}, {WIDTH}] bfloat16, {label}",
        lambda capability: launches(tensors(CLUSTERS, HEADS, "meta"), blocks, capability),
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
