"""Launches and bytes, counted without data; and by them the whole C-ATT layer, fused beside the reference."""

import pytest
import torch

from intraformer_fast.bench.facts.traffic import Traffic, count
from intraformer_fast.kernels.correlation_attention import launch
from intraformer_fast.kernels.correlation_attention.call import Call
from intraformer_fast.ops import correlation_attention


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_what_is_counted():
    x, y = meta(10, 20), meta(20, 30)
    assert count(lambda: x.t().view(20, 10)[None]) == Traffic(0, 0)
    assert count(lambda: torch.empty_like(x)) == Traffic(0, 0)
    assert count(lambda: x @ y) == Traffic(1, 2 * (200 + 600 + 300))
    assert count(lambda: x.add_(1.0)) == Traffic(1, 2 * 200)
    assert count(lambda: x.masked_fill(x > 0, 0.0)) == Traffic(2, 2 * 200 + 200 + 2 * 200 + 200 + 2 * 200)


@pytest.mark.parametrize(("anchor_asks", "most_launches"), [(False, 8), (True, 14)])
def test_the_c_att_layer_fused_against_eager(anchor_asks, most_launches):
    """At the paper's size, forward and backward, products with W included: a fifth of the launches, less than a third of the bytes."""
    batch, streams, size, width = 1024, 3, 64, 512
    member, anchor, weight = meta(batch, streams * size, width), meta(batch, size, width), meta(streams, width, width)
    arguments = (None, None, streams, anchor_asks)

    def eager():
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (member, anchor, weight)]
            torch.autograd.grad(correlation_attention.streams(*leaves, *arguments), leaves, member)

    def fused():
        call = Call(member, anchor, weight, *arguments)
        launch.forward(call)
        launch.backward(member, call)

    plain, ours = count(eager), count(fused)
    print(f"anchor_asks={anchor_asks}: eager {plain}, fused {ours}")
    assert ours.launches <= most_launches
    assert plain.launches >= 5 * ours.launches
    assert plain.bytes > 3 * ours.bytes
