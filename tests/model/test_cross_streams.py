"""C-ATT of all streams in one call, as nn.Intraformer makes it where a backend serves it; here the op stream by stream stands in."""

import pytest
import torch

from intraformer_fast import nn, reference
from intraformer_fast.ops import correlation_attention as op
from intraformer_fast.ops import routing


@pytest.fixture
def calls(monkeypatch):
    """The calls of the op, which from now on serves every model."""
    made = []

    def streams(*tensors, num_streams, anchor_asks):
        made.append((num_streams, anchor_asks))
        return op.streams(*tensors, num_streams, anchor_asks)

    select = routing.select
    monkeypatch.setattr(op, "cross_attention", streams)
    monkeypatch.setattr(
        routing,
        "select",
        lambda name, *tensors, **options: op if name == op_name and tensors else select(name, *tensors, **options),
    )
    op_name = "correlation_attention"
    return made


@pytest.mark.parametrize("asks", ["member", "anchor"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("k", "n", "shared"), [(4, 32, False), (5, 23, False), (3, 20, True), (4, 3, False), (1, 8, False)]
)
def test_one_call_a_layer_and_the_same_logits_and_gradients(calls, k, n, shared, masked, asks):
    torch.manual_seed(0)
    options = {"cross_query": asks, "share_cross_weights": shared}
    fast = nn.Intraformer(16, 32, k, 2, 2, **options).double()
    eager = reference.Intraformer(16, 32, k, 2, 2, **options).double()
    eager.load_state_dict(fast.state_dict())
    x = torch.randn(3, n, 16, dtype=torch.float64)
    valid = None
    if masked:
        valid = torch.rand(3, n) < 0.7
        valid[0] = False
    found, expected = fast(x, valid), eager(x, valid)
    torch.testing.assert_close(found, expected)
    assert calls == ([] if k == 1 else [(k - 1, asks == "anchor")] * 2)
    gradients = (
        torch.autograd.grad(logits.square().sum(), list(model.parameters()), materialize_grads=True)
        for logits, model in ((found, fast), (expected, eager))
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
