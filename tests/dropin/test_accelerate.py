"""accelerate(): what changes class, what stays and why, and that nothing else changes."""

import copy

import pytest
import torch
from torch import nn

import intraformer_fast as ifast
from intraformer_fast import reference


class OwnAttention(nn.MultiheadAttention):
    """As people's codebases have them."""


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True), 2, enable_nested_tensor=False
        )
        self.tanh = nn.TransformerEncoderLayer(32, 2, 64, 0.0, activation=nn.GELU("tanh"), batch_first=True)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.own = OwnAttention(32, 2, batch_first=True)
        self.replaced = nn.MultiheadAttention(32, 2, batch_first=True)
        self.replaced.forward = lambda q, k, v: (q, None)
        self.intraformer = reference.Intraformer(32, 9, 2, 1, 2)

    def forward(self, x):
        x = self.tanh(self.encoder(self.embed(x)))
        x = x + self.attention(x, x, x, need_weights=False)[0] + self.own(x, x, x)[0] + self.replaced(x, x, x)[0]
        return self.intraformer(x)


def test_what_is_swapped_and_what_stays():
    model = Model()
    report = ifast.accelerate(model)
    assert {a.name: a.became for a in report.swapped} == {
        "encoder.layers.0": "FusedEncoderLayer",
        "encoder.layers.0.self_attn": "BlockSelfAttention",
        "encoder.layers.1": "FusedEncoderLayer",
        "encoder.layers.1.self_attn": "BlockSelfAttention",
        "tanh.self_attn": "BlockSelfAttention",
        "attention": "BlockSelfAttention",
        "intraformer": "Intraformer",
    }
    reasons = {a.name: " ".join(a.reasons) for a in report.kept}
    assert set(reasons) == {"tanh", "own", "replaced"}
    assert "neither ReLU nor exact GELU" in reasons["tanh"]
    assert "subclass of MultiheadAttention" in reasons["own"]
    assert "forward was replaced" in reasons["replaced"]
    assert "tanh: TransformerEncoderLayer stays: the activation" in str(report)
    assert not ifast.accelerate(model).swapped


def test_nothing_else_changes():
    torch.manual_seed(0)
    model = Model().eval()
    model.encoder.layers[1].requires_grad_(False)
    model.intraformer.train()
    seen = []
    model.encoder.layers[0].register_forward_hook(lambda *_: seen.append("hook"))
    before = copy.deepcopy(model)
    parameters, modes = list(model.parameters()), [m.training for m in model.modules()]
    layer, x = model.encoder.layers[0], torch.randn(3, 9, 8)
    ifast.accelerate(model)
    assert model.encoder.layers[0] is layer
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert list(model.state_dict()) == list(before.state_dict())
    torch.testing.assert_close(model(x), before(x))
    with torch.no_grad():
        torch.testing.assert_close(model(x), before(x))
    assert len(seen) == 4  # the copy has the hook too


def test_the_model_itself_and_what_is_none():
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    assert "the model itself: TransformerEncoderLayer -> FusedEncoderLayer" in str(ifast.accelerate(layer))
    assert isinstance(layer, ifast.nn.FusedEncoderLayer)
    with pytest.raises(TypeError, match="was given a dict"):
        ifast.accelerate({})
