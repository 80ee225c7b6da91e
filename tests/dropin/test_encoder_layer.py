"""FusedEncoderLayer is torch.nn.TransformerEncoderLayer: the same state_dict, calls and numbers."""

import copy

import pytest
import torch
from cases.instruction_sets import INSTRUCTION_SETS, run_check
from torch import nn

import intraformer_fast as ifast
from intraformer_fast import native
from intraformer_fast.bench import parity
from intraformer_fast.ops import routing

needs_native = pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="only the reference is installed")

WIDTH, HEADS, HIDDEN = 64, 4, 96


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def layers(**options):
    """A layer of ours, and torch's with the same parameters, every one of them away from its start."""
    options = {"batch_first": True, **options}
    fast = ifast.nn.FusedEncoderLayer(WIDTH, HEADS, HIDDEN, **options).eval()
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    options.pop("backend", None)
    eager = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, **options).eval()
    eager.load_state_dict(fast.state_dict())
    return fast, eager


def served(fast, *arguments, **options):
    """The result, and whether the fused op made it."""
    calls = []

    def chooser(op, *rest):
        served_by = routing.remembered(op, *rest)
        calls.append((op, served_by))
        return served_by

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "chooser", chooser)
        result = fast(*arguments, **options)
    return result, ("encoder_block", "cpu") in calls


def assert_parity(found, eager, exact):
    verdict = parity.check({"y": found}, {"y": eager}, {"y": exact})
    assert verdict.passed, verdict.detail


@needs_native
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_parity(norm_first, activation, masked, batch_first):
    fast, eager = layers(norm_first=norm_first, activation=activation, batch_first=batch_first, backend="cpu")
    x = torch.randn(12, 37, WIDTH)
    padding = torch.rand(12, 37) < 0.3 if masked else None
    if masked:
        padding[:, 0] = False  # torch makes a sequence of padding alone NaN
    run = x if batch_first else x.transpose(0, 1)
    with torch.inference_mode():
        twin = eager(run, src_key_padding_mask=padding)
        exact = copy.deepcopy(eager).double()(run.double(), src_key_padding_mask=padding)
        found, fused = served(fast, run, src_key_padding_mask=padding)
        as_numbers = fast(
            run, src_key_padding_mask=None if padding is None else torch.zeros(12, 37).masked_fill(padding, -torch.inf)
        )
    assert fused
    assert_parity(found, twin, exact)  # at padding too
    assert torch.equal(as_numbers, found)


@pytest.mark.parametrize("norm_first", [False, True])
def test_under_autocast_dtypes_are_torchs(norm_first):
    fast, eager = layers(norm_first=norm_first)
    x = torch.randn(3, 9, WIDTH)
    for grad in (torch.inference_mode, torch.enable_grad):
        with grad(), torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(fast(x), eager(x), rtol=0.05, atol=0.05)  # the dtype as well


def check_this_set():
    for norm_first in (False, True):
        fast, eager = layers(norm_first=norm_first, backend="cpu")
        x = torch.randn(12, 37, WIDTH)
        with torch.inference_mode():
            assert_parity(fast(x), eager(x), copy.deepcopy(eager).double()(x.double()))


@needs_native
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_this_set")


@needs_native
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("nested", [False, True])
def test_inside_torchs_encoder(nested):
    fast, eager = layers(norm_first=not nested)  # torch nests sequences for post-norm layers only
    x, padding = torch.randn(3, 9, WIDTH), torch.zeros(3, 9, dtype=torch.bool)
    padding[1, 5:] = True
    ours, torchs = (nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval() for layer in (fast, eager))
    torchs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        found, fused = served(ours, x, src_key_padding_mask=padding)
        torch.testing.assert_close(found, torchs(x, src_key_padding_mask=padding))
    assert fused


@pytest.mark.parametrize("norm_first", [False, True])
def test_training_goes_torchs_way(norm_first):
    fast, eager = (layer.train() for layer in layers(norm_first=norm_first, dropout=0.0))
    x = torch.randn(3, 9, WIDTH)
    found, fused = served(fast, x)
    assert not fused
    torch.testing.assert_close(found, eager(x))
    found.square().sum().backward()
    eager(x).square().sum().backward()
    for ours, torchs in zip(fast.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, torchs.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "arguments", "reason"),
    [
        (lambda layer: None, {"src_mask": torch.zeros(9, 9, dtype=torch.bool)}, "a src_mask is given"),
        (lambda layer: None, {"src_key_padding_mask": torch.full((3, 9), 0.5)}, "adds other numbers"),
        (lambda layer: setattr(layer, "activation", nn.GELU("tanh")), {}, "neither ReLU nor exact GELU"),
        (lambda layer: setattr(layer.norm1, "eps", 1e-3), {}, "eps differ"),
        (lambda layer: setattr(layer, "norm2", nn.RMSNorm(WIDTH)), {}, "is not a torch.nn.LayerNorm"),
        (lambda layer: layer.linear1.register_forward_hook(lambda *_: None), {}, "hooks are attached"),
        (lambda layer: nn.utils.parametrizations.weight_norm(layer.linear2), {}, "is not a torch.nn.Linear"),
        (lambda layer: layer.train(), {}, "dropout of 0.1 is in force"),
        (lambda layer: layer.double(), {}, "tokens is torch.float64"),
    ],
)
def test_what_the_op_does_not_serve_torch_computes(change, arguments, reason):
    fast, _ = layers()
    change(fast)
    x = torch.randn(3, 9, WIDTH, dtype=fast.linear1.weight.dtype)
    twin = copy.deepcopy(fast)
    twin.__class__, twin.self_attn.__class__ = nn.TransformerEncoderLayer, nn.MultiheadAttention
    with torch.no_grad():
        torch.manual_seed(0)
        found, fused = served(fast, x, **arguments)
        torch.manual_seed(0)
        torch.testing.assert_close(found, twin(x, **arguments), equal_nan=True)
        assert not fused
        fast.backend = "cpu"
        with pytest.raises(NotImplementedError, match=reason):
            fast(x, **arguments)


def test_errors_are_torchs():
    fast, eager = layers()
    messages = []
    for layer in (fast, eager):
        with torch.no_grad(), pytest.raises((AssertionError, RuntimeError)) as raised:
            layer(torch.randn(3, 9, WIDTH + 1))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@needs_native
def test_a_changed_parameter_is_seen():
    fast, eager = layers()
    x = torch.randn(3, 9, WIDTH)
    with torch.no_grad():
        before = fast(x)
        fast.linear1.weight.mul_(2)
        eager.load_state_dict(fast.state_dict())
        found = fast(x)
        torch.testing.assert_close(found, eager(x))
    assert not torch.allclose(found, before)
