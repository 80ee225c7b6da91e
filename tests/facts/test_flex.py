"""FlexAttention's kernel, generated where there is no GPU."""

import pytest
import torch

from intraformer_fast.bench.facts.bound import bound, kernel_time
from intraformer_fast.bench.facts.compiled import compile_launch
from intraformer_fast.bench.facts.execute import execute
from intraformer_fast.bench.facts.flex import flex_launch
from intraformer_fast.gpus import gpu

pytest.importorskip("triton", reason="Triton is not installed: there is no kernel to look at")

# Inductor touches old names of its own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.parametrize(("mask_block", "issued"), [(128, 2.0), (64, 1.0)])
def test_its_numbers_and_what_it_multiplies(mask_block, issued):
    """Blocks of 64 tokens: in mask blocks of 128, half of what is multiplied is masked."""
    batch, heads, length, width, blocks = 1, 1, 256, 64, 4
    q, k, v = (torch.randn(batch, heads, length, width).bfloat16() for _ in range(3))
    launch = flex_launch(q, k, v, blocks, 80, mask_block)
    launch.out.fill_(torch.nan)
    counts = execute(launch)
    apart = [t.double().reshape(batch, heads, blocks, -1, width) for t in (q, k, v)]
    exact = torch.nn.functional.scaled_dot_product_attention(*apart).reshape(q.shape)
    assert (launch.out.double() - exact).abs().max() < 2e-2
    assert counts.mma_flops == issued * 4 * length * (length // blocks) * width


def test_at_the_size_of_the_paper():
    q, k, v = (torch.empty(4096, 4, 256, 128, dtype=torch.bfloat16, device="meta") for _ in range(3))
    launch = flex_launch(q, k, v, 4, 90)
    assert launch.grid == (2, 4096, 4)
    assert launch.trips == (2, 0)
    compiled = compile_launch(launch, 90)
    flops = 4096 * 4 * 4 * 256 * 64 * 128
    time = kernel_time(compiled, gpu(90), 2 * 4096 * 4, launch.trips)
    found = bound([time], gpu(90), 4 * q.numel() * 2, flops, "bf16")
    assert compiled.mma_flops(launch.trips) * 2 * 4096 * 4 == 2 * flops
    assert 0 < found.of_roofline <= 1


def test_unequal_blocks():
    q = torch.empty(1, 1, 250, 64, dtype=torch.bfloat16, device="meta")
    with pytest.raises(ValueError, match="expected equal blocks"):
        flex_launch(q, q, q, 4, 80)
