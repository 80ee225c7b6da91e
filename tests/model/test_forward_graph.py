"""From tables: the same logits and gradients, whether the first block projects places or samples."""

import pytest
import torch

from intraformer_fast import native, nn, reference
from intraformer_fast.nn import intraformer
from intraformer_fast.ops import correlation_attention, gather_correlation_attention, routing

OPTIONS = [
    {"num_subclusters": 1},
    {"num_subclusters": 3},
    {"num_subclusters": 2, "input_dim": 6},
    {"num_subclusters": 2, "cross_attention": False},
    {"num_subclusters": 3, "cross_query": "anchor", "share_cross_weights": True},
]


@pytest.fixture
def gathers(monkeypatch):
    """The tables that the gather op was asked to serve."""
    asked = []
    select = routing.select

    def spying(op, *arguments, **options):
        if op == "gather_block_attention":
            asked.append(arguments[0].shape)
        return select(op, *arguments, **options)

    monkeypatch.setattr(routing, "select", spying)
    return asked


def run(model, features, neighbors):
    logits = model.forward_graph(features, neighbors)
    return logits, *torch.autograd.grad(logits.square().sum(), [features, *model.parameters()])


@pytest.mark.parametrize("options", OPTIONS)
def test_samples_are_projected_once_where_places_are_alike(options, gathers):
    torch.manual_seed(0)
    fast = nn.Intraformer(8, 13, num_layers=2, num_heads=2, position="none", **options).double()
    plain = reference.Intraformer(8, 13, num_layers=2, num_heads=2, position="none", **options).double()
    plain.load_state_dict(fast.state_dict())
    features = torch.nn.functional.normalize(
        torch.randn(10, fast.input_dim, dtype=torch.float64), dim=-1
    ).requires_grad_()
    neighbors = torch.randint(-1, 10, (6, 13))
    neighbors[0] = -1
    torch.testing.assert_close(run(fast, features, neighbors), run(plain, features, neighbors))
    assert gathers == [(10, 2, 4)] * options["num_subclusters"]


@pytest.mark.parametrize(
    ("options", "samples"), [({}, 10), ({"position": "none", "similarity_input": True}, 10), ({"position": "none"}, 40)]
)
def test_places_are_projected_where_they_differ_or_are_fewer(options, samples, gathers):
    torch.manual_seed(0)
    model = nn.Intraformer(8, 13, num_subclusters=2, num_layers=1, num_heads=2, **options)
    features, neighbors = torch.randn(samples, 8), torch.randint(samples, (6, 13))
    expected = model(features[neighbors], torch.ones(6, 13, dtype=torch.bool))
    torch.testing.assert_close(model.forward_graph(features, neighbors), expected)
    assert not gathers


@pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="only the reference is installed")
@pytest.mark.parametrize("asks", ["member", "anchor"])
@pytest.mark.parametrize(("k", "shared"), [(2, False), (3, True), (5, False)])
def test_the_anchor_is_normalised_once_a_sample_in_the_first_block(k, shared, asks, monkeypatch):
    """As on CUDA, by the op of the CPU: one call a layer, the first of them on the table."""
    monkeypatch.setattr(intraformer, "ANCHOR_FROM_TABLE", ("cpu",))
    calls = []
    gathering, dense = gather_correlation_attention.cross_attention, correlation_attention.cross_attention

    def from_table(call):
        calls.append((call.anchor.shape, call.num_streams))
        return gathering(call)

    def from_tokens(member, anchor, *arguments, **options):
        calls.append((anchor.shape, options["num_streams"]))
        return dense(member, anchor, *arguments, **options)

    monkeypatch.setattr(gather_correlation_attention, "cross_attention", from_table)
    monkeypatch.setattr(correlation_attention, "cross_attention", from_tokens)
    torch.manual_seed(0)
    options = {
        "num_layers": 2,
        "num_heads": 2,
        "num_subclusters": k,
        "cross_query": asks,
        "share_cross_weights": shared,
    }
    fast = nn.Intraformer(16, 13, position="none", input_dim=6, **options)
    plain = reference.Intraformer(16, 13, position="none", input_dim=6, **options)
    plain.load_state_dict(fast.state_dict())
    features = torch.nn.functional.normalize(torch.randn(10, 6), dim=-1).requires_grad_()
    neighbors = torch.randint(-1, 10, (6, 13))
    neighbors[0] = -1
    found, expected = run(fast, features, neighbors), run(plain, features, neighbors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # Where the anchor asks, its padding does too, by a row of its own.
    rows = 10 + (asks == "anchor")
    assert calls == [((rows, 16), k - 1), ((6, -(-13 // k), 16), k - 1)]
