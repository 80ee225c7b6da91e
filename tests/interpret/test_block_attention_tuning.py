"""Tiles by measurement: the fastest that fit, kept on disk, only on request."""

import json

import pytest
import torch

from intraformer_fast.kernels.block_attention import configs, launch, tuning


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "block_attention.json"


def test_only_on_request_and_never_where_results_have_to_repeat(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.delenv("INTRAFORMER_AUTOTUNE", raising=False)
    assert not tuning.wanted(cuda)
    monkeypatch.setenv("INTRAFORMER_AUTOTUNE", "1")
    assert tuning.wanted(cuda)
    assert not tuning.wanted(torch.device("cpu"))
    torch.use_deterministic_algorithms(True)
    try:
        assert not tuning.wanted(cuda)
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("INTRAFORMER_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="expected 0 or 1"):
        tuning.wanted(cuda)


def test_the_fastest_that_fits_is_kept(cache):
    asked = []

    def seconds(plan, what):
        asked.append(what)
        tile = {
            "forward": plan.forward_tile or plan.loop,
            "tile": plan.backward_tile,
            "queries": plan.queries,
            "keys": plan.keys,
        }[what]
        if tile.num_warps == 8:
            raise RuntimeError("out of resource: shared memory")
        return {"tile": 5.0}.get(what, 1.0) + tile.rows / 1000 + (0 if tile.keys else 1)

    arguments = (configs.HALF, 128, 64, 90, "some GPU")
    found = tuning.plan(*arguments, seconds)
    # A loop is faster than any tile in the forward pass, two kernels faster than one in the backward pass; 8 warps fit nowhere.
    assert found.forward_tile is None
    assert found.backward_tile is None
    assert (
        found.queries.rows == found.keys.rows == min(t.rows for t in tuning.candidates(configs.HALF, 64, 90) if t.keys)
    )
    assert {"forward", "tile", "queries", "keys"} == set(asked)
    asked.clear()
    assert tuning.plan(*arguments, seconds) == found
    assert not asked
    assert list(json.loads(cache.read_text())) == ["some GPU, half, width 128, runs of 64"]
    tuning.plan(configs.HALF, 128, 32, 90, "some GPU", seconds)
    assert len(json.loads(cache.read_text())) == 2


def test_where_nothing_fits_the_table_stands():
    def seconds(plan, what):
        raise RuntimeError("out of resource")

    start = configs.plan(configs.HALF, 128, 200, 90)
    found = tuning.plan(configs.HALF, 128, 200, 90, "some GPU", seconds)
    assert found.loop == start.loop
    assert (found.queries, found.keys) == (start.queries, start.keys)


@pytest.mark.gpu
def test_on_a_gpu(cache, monkeypatch):
    monkeypatch.setenv("INTRAFORMER_AUTOTUNE", "1")
    monkeypatch.setattr(tuning, "candidates", lambda *_: [configs.Tile(64, 0, 4, 1), configs.Tile(32, 32, 4, 1)])
    q, k, v, output = (torch.randn(4, 2, 64, 32, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    launch.forward(output, q, k, v, None, 1, 0.2)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.2)
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    assert len(json.loads(cache.read_text())) == 1
