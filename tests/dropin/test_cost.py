"""The cost model: formulas counted by hand, bounds, devices, errors."""

import pytest

from intraformer_fast import cost


def test_block_attention_by_hand():
    # 2 clusters, 3 heads, runs of 4 and 3 tokens of 5 channels, 2 bytes each
    pairs = 2 * 3 * (4 * 4 + 3 * 3)
    assert cost.block_attention(2, 3, 7, 5, 2, item_bytes=2) == (4 * 2 * 3 * 7 * 5 * 2, pairs * 5 * 2 * 2)
    both = cost.block_attention(2, 3, 7, 5, 2, item_bytes=2, backward=True)
    assert both == (11 * 2 * 3 * 7 * 5 * 2, pairs * 5 * 2 * 7)


def test_encoder_layer_by_hand():
    work = cost.encoder_layer(2, 7, 16, ffn_dim=32)
    weights = 4 * 16 * 16 + 2 * 16 * 32
    assert work == (4 * (2 * 2 * 7 * 16 + weights), 2 * 2 * 7 * weights + 4 * 2 * 7 * 7 * 16)


def test_the_paper_model_is_what_kernels_are_planned_by():
    # 9.7 GFLOP a cluster: 24 d^2 and 4 s d a token and block, 2 d^2 and 4 s d a member's token
    assert cost.intraformer(1).flops == pytest.approx(9.7e9, rel=0.15)


def test_an_estimate_is_the_longer_of_both():
    gpu = cost.Device("toy", {"fp32": 100.0}, 10.0)
    shape = {"batch": 1, "heads": 1, "n": 2, "width": 4}
    found = cost.estimate("block_attention", shape, gpu, precision="fp32")
    assert (found.bytes, found.flops) == (4 * 8 * 4, 4 * 4 * 4)
    assert (found.seconds, found.binding) == (12.8, "memory")
    assert (
        cost.estimate("encoder_layer", {"batch": 9, "n": 9, "width": 64}, gpu, precision="fp32").binding == "operations"
    )
    assert "predicted" in str(found)


def test_devices():
    a100, h100 = (cost.estimate("knn_graph", {"samples": 10**6, "n": 256, "width": 512}, d) for d in ("A100", "h100"))
    assert a100.seconds == pytest.approx(2 * 1e12 * 512 / 312e12)
    assert a100.seconds > h100.seconds
    here = cost.this_cpu()
    assert here.peaks["bf16"] >= here.peaks["fp32"] > 1e9


def test_pipeline():
    graph, model, whole = cost.estimate_pipeline(5_200_000, "H100")
    assert whole.seconds == graph.seconds + model.seconds
    assert whole.binding == "intraformer"
    assert 30 < model.seconds < 120


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cost.estimate("softmax", {}), ValueError, "op = 'softmax': expected one of 'block_attention'"),
        (
            lambda: cost.estimate("purity_fmi", {"batch": 1, "n": 2}, "TPU"),
            ValueError,
            "expected 'cpu', 'A100', 'H100'",
        ),
        (lambda: cost.estimate("purity_fmi", {"batch": 1}), TypeError, "missing 1 required positional argument: 'n'"),
        (lambda: cost.estimate("purity_fmi", {"batch": 1, "n": 2}, precision="int4"), ValueError, "precision = 'int4'"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
