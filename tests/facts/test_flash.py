"""The costs of FlashAttention-2, at sizes that are easy to follow."""

import pytest

from intraformer_fast.bench.facts import flash


def test_one_sequence_that_fills_its_tiles():
    found = flash.forward(1, 256, 128)
    assert found == (256 * (4 * 128 * 2 + 4), 4 * 256 * 256 * 128, 4 * 256 * 256 * 128)
    assert flash.backward(1, 256, 128).useful_flops == 2.5 * found.useful_flops


def test_blocks_of_64_leave_half_of_the_queries_tile_empty():
    found = flash.forward(4096 * 4 * 4, 64, 128)
    assert found.issued_flops == 2 * found.useful_flops
    assert flash.forward(1, 64, 64).issued_flops == 4 * flash.forward(1, 64, 64).useful_flops
    assert flash.backward(1, 64, 128).issued_flops == 2 * flash.backward(1, 64, 128).useful_flops


def test_backward_moves_more_than_it_has_to():
    least = 7 * 2  # reads Q, K, V and dO, writes dQ, dK and dV
    rows, width = 4096 * 256, 128
    assert flash.backward(4096, 256, width).bytes == rows * (34 * width + 12)
    assert 34 / least > 2.4


def test_a_width_without_a_tile():
    with pytest.raises(ValueError, match="width = 48: expected one of 32, 64"):
        flash.forward(1, 64, 48)
