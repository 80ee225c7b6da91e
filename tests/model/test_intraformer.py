"""The module: parity with an independent hand-written twin, padding, shapes, options, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intraformer_fast import nn, reference
from intraformer_fast.presets import PRESETS

OPTIONS = [
    {"num_subclusters": 1},
    {"num_subclusters": 4},
    {"num_subclusters": 5, "cross_query": "anchor"},
    {"num_subclusters": 3, "share_cross_weights": True, "similarity_input": True},
    {"num_subclusters": 3, "input_dim": 6, "position": "sinusoidal"},
    {"num_subclusters": 16, "position": "none", "ffn_dim": 5},
    {"num_subclusters": 3, "cross_attention": False},
    {"num_subclusters": 3, "tokens": "similarities", "input_dim": 6},
]


def pair(**options):
    torch.manual_seed(0)
    fast = nn.Intraformer(8, 13, num_layers=2, num_heads=2, **options).double()
    plain = reference.Intraformer(8, 13, num_layers=2, num_heads=2, **options).double()
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def clusters(batch, n, width, seed=0):
    x = torch.randn(batch, n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def written_out(model, x):
    """The model of the paper, one cluster and one token at a time, from the state dict alone."""
    w = {name: value.detach() for name, value in model.state_dict().items()}
    d, heads = model.embed_dim, model.num_heads
    k = model.num_subclusters
    size, longer = divmod(len(x), k)
    cuts = [m * size + min(m, longer) for m in range(k + 1)]

    def norm(name, t):
        centered = t - t.mean()
        return centered / (centered.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name, t):
        return w[f"{name}.weight"] @ t + w[f"{name}.bias"]

    tokens = [t + w["rank_embedding"][j] for j, t in enumerate(x)]
    streams = [tokens[cuts[m] : cuts[m + 1]] for m in range(k)]
    for number in range(len(model.blocks)):
        entering, leaving = streams[0], []
        for m, stream in enumerate(streams):
            layer = f"blocks.{number}.layers.{m}"
            projected = [linear(f"{layer}.query_key_value", norm(f"{layer}.norm_attention", t)) for t in stream]
            after = []
            for i, t in enumerate(stream):
                head_outputs = []
                for h in range(heads):
                    part = slice(h * d // heads, (h + 1) * d // heads)
                    query = projected[i][:d][part]
                    scores = [float(query @ p[d : 2 * d][part]) / math.sqrt(d / heads) for p in projected]
                    weights = [math.exp(s) for s in scores]
                    head_outputs.append(
                        sum(a * p[2 * d :][part] for a, p in zip(weights, projected, strict=True)) / sum(weights)
                    )
                after.append(t + linear(f"{layer}.attention_output", torch.cat(head_outputs)))
            if m > 0:
                cross = f"blocks.{number}.cross"
                context = [norm(f"{cross}.norm_anchor", t) for t in entering]
                for i, t in enumerate(after):
                    query = norm(f"{cross}.norm_members.{m - 1}", t) @ w[f"{cross}.weight"][m - 1]
                    weights = [math.exp(float(query @ c)) for c in context]
                    after[i] = t + sum(a * c for a, c in zip(weights, context, strict=True)) / sum(weights)
            for i, t in enumerate(after):
                hidden = torch.nn.functional.gelu(linear(f"{layer}.ffn_up", norm(f"{layer}.norm_ffn", t)))
                after[i] = t + linear(f"{layer}.ffn_down", hidden)
            leaving.append(after)
        streams = leaving
    return torch.stack([linear("head", norm("norm", t)) for stream in streams for t in stream]).squeeze(-1)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", [nn.Intraformer, reference.Intraformer])
def test_forward_is_the_model_written_out(kind, k):
    torch.manual_seed(1)
    model = kind(8, 7, k, 2, 2).double()
    x = clusters(1, 7, 8)
    torch.testing.assert_close(model(x)[0], written_out(model, x[0]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS)
def test_module_equals_reference(options):
    fast, plain = pair(**options)
    x = clusters(4, 13, options.get("input_dim", 8))
    valid = torch.arange(13) < torch.tensor([[13], [6], [1], [0]])
    for mask in (None, valid):
        expected, found = plain(x, mask), fast(x, mask)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for f, p in zip(fast.parameters(), plain.parameters(), strict=True):
            gradients = [torch.autograd.grad(y.square().sum(), q, retain_graph=True, allow_unused=True)[0]
                         for y, q in ((found, f), (expected, p))]  # fmt: skip
            if gradients[1] is not None:
                torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_changes_nothing_and_poison_does_not_leak(options):
    model, _ = pair(**options)
    x = clusters(3, 13, options.get("input_dim", 8))
    valid = torch.arange(13) < torch.tensor([[9], [13], [0]])
    clean = model(x, valid)
    poisoned = torch.where(valid[..., None], x, torch.nan)
    assert torch.equal(model(poisoned, valid), clean)
    assert torch.equal(clean[~valid], torch.zeros(13 - 9 + 13, dtype=clean.dtype))
    model(poisoned, valid).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_one_cluster_does_not_see_another():
    model, _ = pair(num_subclusters=3)
    x = clusters(3, 13, 8)
    changed = x.clone()
    changed[1] = clusters(1, 13, 8, seed=9)[0]
    first, second = model(x), model(changed)
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    assert not torch.equal(first[1], second[1])


def test_without_c_att_streams_never_meet_and_have_no_parameters_for_it():
    model, _ = pair(num_subclusters=3, cross_attention=False)
    assert not any("cross" in name for name in model.state_dict())
    x = clusters(1, 13, 8)
    for stream in (slice(0, 5), slice(5, 9), slice(9, 13)):
        changed = x.clone()
        changed[0, stream] *= -1
        same = model(x)[0] == model(changed)[0]
        assert same.sum() == 13 - (stream.stop - stream.start)
        assert not same[stream].any()


def test_tokens_of_similarities_are_the_rows_of_the_clusters_cosines():
    model, _ = pair(tokens="similarities", position="none", input_dim=6)
    x = clusters(2, 13, 6)
    cosines = [[[float(a @ b) for b in cluster] for a in cluster] for cluster in x]
    expected = torch.nn.functional.linear(torch.tensor(cosines, dtype=x.dtype), *model.input_projection.parameters())
    torch.testing.assert_close(model._embed(x), expected)


@pytest.mark.parametrize("position", ["learned", "none"])
def test_tokens_of_similarities_read_no_feature(position):
    model, _ = pair(tokens="similarities", position=position, num_subclusters=3, input_dim=6)
    x = clusters(4, 13, 6)
    turned = x @ torch.linalg.qr(clusters(1, 6, 6)[0])[0]
    torch.testing.assert_close(model(3 * turned), model(x))
    # Fewer neighbours are like padding.
    valid = torch.arange(13) < torch.tensor([[9]]).expand(4, 1)
    model = nn.Intraformer(**{**model.config, "num_subclusters": 1}).double()
    torch.testing.assert_close(model(x[:, :9]), model(x, valid)[:, :9])
    with pytest.raises(ValueError, match="the model learned 13 ranks"):
        model(clusters(1, 14, 6))


def test_autocast_leaves_similarities_as_they_are():
    model, _ = pair(tokens="similarities", position="none")
    model.float()
    with torch.no_grad():
        model.input_projection.weight.zero_().fill_diagonal_(1.0)
        model.input_projection.bias.zero_()
        x = clusters(2, 8, 8).float()
        with torch.autocast("cpu", torch.bfloat16):
            found = model._embed(x)
    exact = x @ x.transpose(1, 2)
    # One rounding to bfloat16, of the exact cosine.
    assert torch.equal(found, exact.bfloat16())


def test_sub_cluster_zero_does_not_see_the_others_and_they_see_it():
    model, _ = pair(num_subclusters=3)
    x = clusters(1, 13, 8)
    changed = x.clone()
    changed[0, -1] = -changed[0, -1]
    assert torch.equal(model(x)[0, :5], model(changed)[0, :5])
    changed = x.clone()
    changed[0, 0] = -changed[0, 0]
    assert not torch.isclose(model(x), model(changed)).any()


@pytest.mark.parametrize("cross_query", ["member", "anchor"])
def test_cross_attention_carries_the_anchor_to_every_stream(cross_query):
    model, _ = pair(num_subclusters=4, cross_query=cross_query)
    x = clusters(1, 13, 8)
    with torch.no_grad():
        plain = model(x)
        for block in model.blocks:
            block.cross.weight.mul_(3)
    assert torch.equal(plain[0, :4], model(x)[0, :4])
    assert not torch.isclose(plain[0, 4:], model(x)[0, 4:]).any()


def test_forward_graph_equals_forward_on_gathered_rows():
    model, _ = pair(num_subclusters=4)
    features = clusters(1, 20, 8)[0]
    neighbors = torch.randint(0, 20, (6, 13), generator=torch.Generator().manual_seed(0))
    neighbors[2, 5:] = -1
    valid = neighbors >= 0
    expected = model(features[neighbors.clamp(min=0)], valid)
    assert torch.equal(model.forward_graph(features, neighbors), expected)
    assert torch.equal(model.forward_graph(features, neighbors.int()), expected)


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(0, 13), st.integers(1, 16), st.sampled_from(["member", "anchor"]), st.data())
def test_any_size_runs_and_agrees(batch, n, k, cross_query, data):
    fast, plain = pair(num_subclusters=k, cross_query=cross_query)
    x = clusters(batch, n, 8)
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, n), min_size=batch, max_size=batch)), dtype=torch.long)
    valid = torch.arange(n) < lengths[:, None]
    logits = fast(x, valid)
    assert logits.shape == (batch, n)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, plain(x, valid), rtol=1e-10, atol=1e-12)


def test_presets_make_the_models_they_say():
    paper = nn.Intraformer.from_preset("paper", num_layers=1)
    assert (paper.embed_dim, paper.num_neighbors, paper.num_subclusters, paper.num_heads) == (512, 256, 4, 4)
    assert reference.Intraformer().config == nn.Intraformer.from_preset("paper").config
    assert nn.Intraformer.from_preset("small", num_subclusters=4).num_subclusters == 4
    ours, small_paper = (nn.Intraformer.from_preset(name).config for name in ("small", "small-paper"))
    assert ours["tokens"] == "similarities"
    differing = {name for name, value in paper.config.items() if small_paper[name] != value}
    assert differing <= {"embed_dim", "input_dim", "ffn_dim", "num_neighbors", "num_layers"}
    with pytest.raises(ValueError, match=f"expected one of {', '.join(map(repr, PRESETS))}"):
        nn.Intraformer.from_preset("large")


def test_config_rebuilds_the_model():
    model, _ = pair(num_subclusters=3, similarity_input=True, input_dim=6)
    again = nn.Intraformer(**model.config).double()
    again.load_state_dict(model.state_dict())
    x = clusters(2, 13, 6)
    assert torch.equal(again(x), model(x))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = nn.Intraformer(8, 13, 2, 2, 2, dropout=0.5)
    x = clusters(2, 13, 8).float()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float64(dtype):
    fast, plain = pair(num_subclusters=4)
    x = clusters(4, 13, 8)
    expected = plain(x)
    found = fast.to(dtype)(x.to(dtype)).double()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_autocast_runs_forward_and_backward():
    fast, _ = pair(num_subclusters=4)
    fast.float()
    x = clusters(4, 13, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = fast(x)
    logits.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in fast.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 0}, "embed_dim = 0: expected at least 1"),
        ({"embed_dim": 10, "num_heads": 4}, "not divisible by num_heads = 4"),
        ({"embed_dim": 3, "num_heads": 1, "position": "sinusoidal"}, "sinusoidal positions need an even width"),
        ({"dropout": 1.0}, "expected a rate in"),
        ({"tokens": "ranks"}, "tokens = 'ranks': expected one of 'features', 'similarities'"),
        ({"tokens": "similarities", "similarity_input": True}, "similarity_input is for tokens='features'"),
        ({"position": "rotary"}, "position = 'rotary': expected one of 'learned', 'sinusoidal', 'none'"),
        ({"cross_query": "both"}, "expected one of 'member', 'anchor'"),
        ({"backend": "tpu"}, "backend = 'tpu': expected one of"),
    ],
)
def test_bad_constructor_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.Intraformer(**{"embed_dim": 8, "num_layers": 1, **arguments})


def test_a_backend_that_cannot_serve_says_why():
    with pytest.raises(NotImplementedError, match="no 'cuda' implementation of block_attention"):
        nn.Intraformer(8, num_layers=1, backend="cuda")


def test_bad_inputs_are_refused():
    model = nn.Intraformer(8, 5, 2, 1, 2)
    x = torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match=r"expected \[B, n, 8\]"):
        model(torch.randn(2, 5, 7))
    with pytest.raises(ValueError, match="the model learned 5 ranks"):
        model(torch.randn(2, 6, 8))
    with pytest.raises(TypeError, match=r"expected torch\.bool"):
        model(x, torch.ones(2, 5))
    with pytest.raises(ValueError, match="one flag a neighbour"):
        model(x, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="integer ids"):
        model.forward_graph(torch.randn(9, 8), torch.rand(2, 5))
