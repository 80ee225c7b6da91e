"""Two benchmarks of the softmax of a few rows: one as it should be, one whose own candidate is wrong."""

from collections.abc import Iterator

import torch

from intraformer_fast.bench.registry import EAGER, OURS, Case, Limit, Work, register

ROWS, WIDTH = 64, 2**15
BYTES = 2 * ROWS * WIDTH * 4


def written_out(x):
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def refuses(inputs):
    raise NotImplementedError("no such compiler here\nand a long story")


def case(ours, label=f"[{ROWS}, {WIDTH}]", others=None):
    def make(function):
        return lambda inputs: lambda: {"probability": function(inputs["x"])}

    return Case(
        label,
        lambda generator: {"x": torch.randn(ROWS, WIDTH, generator=generator)},
        {EAGER: make(written_out), OURS: make(ours)} | (others or {}),
        Work(BYTES),
        {"torch.add": Limit(lambda inputs: lambda: torch.add(inputs["x"], 1.0), Work(BYTES))},
    )


@register("tiny", "The softmax of each row.", devices=("cpu",))
def tiny() -> Iterator[Case]:
    yield case(lambda x: x.softmax(-1), others={"absent": refuses})
    yield case(lambda x: x.softmax(-1), label="the same again")


@register("wrong", "A softmax that forgot a thousandth.", devices=("cpu",))
def wrong() -> Iterator[Case]:
    yield case(lambda x: 0.999 * x.softmax(-1))
