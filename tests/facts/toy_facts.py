"""Facts of the toy kernels: one that is as it should be, one in a loop, one that computes something else."""

from collections.abc import Iterator

import torch

from intraformer_fast.bench.facts.cases import FactsCase, Small, register_facts
from intraformer_fast.bench.registry import Work
from intraformer_fast.kernels.common.launches import Launch

WIDTH = 64


def attention(q, k, v):
    scores = q @ k.transpose(-1, -2) * WIDTH**-0.5
    return scores.softmax(-1) @ v


def work(programs, length):
    return Work(4 * programs * length * WIDTH * 2, programs * 2 * 2 * length * length * WIDTH)


def case(make, label, programs, length, trips=lambda launch: (), wrong=1.0):
    meta = [torch.empty(programs, length, WIDTH, dtype=torch.bfloat16, device="meta") for _ in range(4)]

    def small(generator):
        q, k, v = (torch.randn(2, length, WIDTH, generator=generator).bfloat16() for _ in range(3))
        out = torch.full_like(q, torch.nan)
        return Small(
            [make(q * wrong, k, v, out)], work(2, length), {"o": out}, {"o": attention(q, k, v)},
            {"o": attention(q.double(), k.double(), v.double())},
        )  # fmt: skip

    return FactsCase(label, lambda capability: [make(*meta)], work(programs, length), small, trips=trips)


def register(kernels):
    def tile(q, k, v, o):
        arguments = {"p_q": q, "p_k": k, "p_v": v, "p_o": o, "stride_b": q.stride(0), "stride_s": q.stride(1)}
        arguments |= {"stride_d": q.stride(2), "length": q.shape[1], "scale": WIDTH**-0.5}
        return Launch(kernels.attention, (q.shape[0],), arguments, {"S": 64, "D": WIDTH}, 4, 1)

    def loop(q, k, v, o):
        arguments = {"p_q": q, "p_k": k, "p_v": v, "p_o": o, "stride_b": q.stride(0), "stride_s": q.stride(1)}
        arguments |= {"length": q.shape[1], "scale": WIDTH**-0.5}
        grid = (-(-q.shape[1] // 64), q.shape[0])
        return Launch(kernels.attention_loop, grid, arguments, {"S": 64, "D": WIDTH, "N": 32}, 4, 2)

    @register_facts("toy")
    def toy() -> Iterator[FactsCase]:
        yield case(tile, "one tile", 10**6, 64)
        yield case(loop, "a loop", 10**5, 128, trips=lambda launch: [128 // launch.constexprs["N"]])

    @register_facts("wrong")
    def wrong() -> Iterator[FactsCase]:
        yield case(tile, "a larger scale", 10**6, 64, wrong=1.5)
