"""The linear layers of all streams on the CPU against the same in float64: as near to it as PyTorch's own float32 or autocast is, or
twice."""

import pytest
import torch
from cases.instruction_sets import INSTRUCTION_SETS, run_check
from torch import nn

import intraformer_fast
from intraformer_fast import native, reference
from intraformer_fast.bench import parity
from intraformer_fast.ops import routing, stream_linear

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

OPS = torch.ops.intraformer_fast

# B, n, inputs, outputs, streams
SHAPES = {
    "blocks": (7, 40, 128, 112, 1),
    "ragged streams": (11, 22, 48, 144, 3),
    "more streams than tokens": (30, 2, 16, 16, 3),
    "deeper than a chunk": (3, 60, 1056, 32, 2),
    "wider than a chunk": (3, 60, 32, 1056, 2),
}
BEFORE = ("nothing", "norm", "gelu")


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def draw(shape, before, dtype=torch.float32, with_residual=True):
    """The tensors that have gradients, by name, and the gradient of the output."""
    batch, n, inputs, outputs, streams = shape
    named = {"input": torch.randn(batch, n, inputs).to(dtype)}
    if with_residual:
        named["residual"] = torch.randn(batch, n, outputs)
    for m in range(streams):
        named[f"weight {m}"] = torch.randn(outputs, inputs) * inputs**-0.5
        named[f"bias {m}"] = torch.randn(outputs)
        if before == "norm":
            named[f"norm weight {m}"], named[f"norm bias {m}"] = torch.randn(inputs), torch.randn(inputs)
    return named, torch.randn(batch, n, outputs)


def lists(named):
    kinds = "weight ", "bias ", "norm weight ", "norm bias "
    return [[t for name, t in named.items() if name.startswith(kind)] for kind in kinds]


def native_op(named, before, bfloat16):
    arguments = named["input"], named.get("residual"), *lists(named)
    return OPS.stream_linear(*arguments, before == "gelu", 1e-5, bfloat16)[0]


def composed(named, before, bfloat16):
    arguments = named["input"], named.get("residual"), *lists(named)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        return stream_linear.composed(*arguments, before == "gelu", 1e-5)


def run(op, named, grad, before, bfloat16, dtype=None):
    leaves = {name: t.to(dtype or t.dtype).detach().requires_grad_() for name, t in named.items()}
    output = op(leaves, before, bfloat16 and dtype is None)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad.to(output.dtype))
    return {"output": output.detach(), **{f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}}


def assert_parity(shape, before, bfloat16=False, dtype=torch.float32, with_residual=True):
    named, grad = draw(shape, before, dtype, with_residual)
    if bfloat16 and not with_residual:
        grad = grad.bfloat16()
    found = run(native_op, named, grad, before, bfloat16)
    eager = run(composed, named, grad, before, bfloat16)
    exact = run(composed, named, grad, before, bfloat16, torch.float64)
    verdict = parity.check(found, eager, exact)
    assert verdict.passed, (shape, before, bfloat16, verdict.detail)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_numbers(shape, before, bfloat16):
    assert_parity(shape, before, bfloat16)


@pytest.mark.parametrize("before", BEFORE)
def test_bfloat16_tokens_without_a_residual(before):
    assert_parity(SHAPES["ragged streams"], before, True, torch.bfloat16, with_residual=False)


def check_all():
    torch.manual_seed(1)
    for shape in SHAPES.values():
        for before in BEFORE:
            for bfloat16 in (False, True):
                assert_parity(shape, before, bfloat16)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_all")


@pytest.mark.parametrize("before", BEFORE)
def test_any_strides(before):
    named, grad = draw((5, 9, 32, 48, 2), before)
    strange = {n: t.transpose(0, -1).contiguous().transpose(0, -1) for n, t in named.items()}
    expected = run(native_op, named, grad, before, False)
    found = run(native_op, strange, grad.transpose(0, 2).contiguous().transpose(0, 2), before, False)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_gradient_without_strides():
    named, grad = draw((5, 9, 32, 48, 2), "norm")
    ones = torch.ones(()).expand_as(grad)
    expected, found = (run(native_op, named, g, "norm", False) for g in (ones.contiguous(), ones))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("before", BEFORE)
def test_threads_change_no_bit(before):
    named, grad = draw((9, 70, 64, 160, 3), before)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(native_op, named, grad, before, False))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(other[name], tensor), name


def test_a_bad_token_spoils_its_own_row_alone():
    named, _ = draw((4, 30, 32, 48, 2), "norm")
    expected = native_op(named, "norm", False)
    named["input"][2, 7] = float("nan")
    found = native_op(named, "norm", False)
    assert found[2, 7].isnan().all()
    found[2, 7] = expected[2, 7]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("batch", "n"), [(0, 9), (3, 0)])
def test_nothing_to_do(batch, n, before):
    named, grad = draw((batch, n, 32, 48, 2), before)
    found = run(native_op, named, grad, before, False)
    assert found["output"].shape == (batch, n, 48)
    assert all(not tensor.any() for tensor in found.values())


def test_gelu_and_its_slope_far_out():
    x = torch.tensor([0.0, -0.0, 1e-30, -5.4, 5.4, -5.6, 5.6, -40.0, 40.0, -1e4, 1e4, 5.5, -5.5, 0.5, -0.75, -3.0])
    named = {"input": x[None, None], "weight 0": torch.eye(16), "bias 0": torch.zeros(16)}
    found = run(native_op, named, torch.ones(1, 1, 16), "gelu", False)
    exact = run(composed, named, torch.ones(1, 1, 16), "gelu", False, torch.float64)
    for name in ("output", "gradient of input"):
        torch.testing.assert_close(found[name].double(), exact[name], rtol=3e-7, atol=1e-6)


# ---- The model ----


def served_in_float32_too(monkeypatch):
    monkeypatch.setattr(stream_linear, "slower_reasons", lambda *arguments: [])


def gradients_of(kind, dropout=0.0, k=3, bfloat16=False, dtype=torch.float32, **options):
    torch.manual_seed(5)
    model = kind(32, 20, k, 2, 2, dropout=dropout, **options).to(dtype).train()
    x = nn.functional.normalize(torch.randn(6, 20, 32), dim=-1).to(dtype)
    valid = torch.rand(6, 20) < 0.8
    grad = torch.randn(6, 20)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(x, valid)
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(logits, list(named.values()), grad.to(logits.dtype))
    return {"logits": logits, **dict(zip(named, gradients, strict=True))}


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("options", [{"k": 1}, {"k": 3}, {"k": 3, "share_cross_weights": True}], ids=str)
def test_training_of_the_model(options, bfloat16, monkeypatch):
    served_in_float32_too(monkeypatch)
    calls = []
    original = stream_linear.stream_linear
    monkeypatch.setattr(stream_linear, "stream_linear", lambda *a, **k: calls.append(1) or original(*a, **k))
    found = gradients_of(intraformer_fast.nn.Intraformer, bfloat16=bfloat16, **options)
    assert len(calls) == 8  # four a block
    eager = gradients_of(reference.Intraformer, bfloat16=bfloat16, **options)
    exact = gradients_of(reference.Intraformer, dtype=torch.float64, **options)
    # All parameters at once: one alone has few numbers, whose greatest error is chance.
    flat = [
        {"logits": r["logits"].flatten(), "gradients": torch.cat([g.flatten() for n, g in r.items() if n != "logits"])}
        for r in (found, eager, exact)
    ]
    verdict = parity.check(*flat)
    assert verdict.passed, verdict.detail


def test_dropout_falls_on_what_joins_the_residual(monkeypatch):
    served_in_float32_too(monkeypatch)
    torch.manual_seed(0)
    model = intraformer_fast.nn.Intraformer(32, 20, 1, 1, 2, dropout=0.5).train()
    twin = reference.Intraformer(32, 20, 1, 1, 2, dropout=0.5).train()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(6, 20, 32)
    outputs = []
    for m in (model, twin):  # one stream draws in the same order
        torch.manual_seed(3)
        outputs.append(m(x))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_products_of_float32_are_left_to_torch(bfloat16):
    arguments = torch.zeros(2, 3, 32), [torch.zeros(32, 32)], (32,)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        assert routing.select("stream_linear", *arguments) is (stream_linear if bfloat16 else reference)


@pytest.mark.parametrize(
    ("input", "parameter", "width", "autocast", "reason"),
    [
        (torch.float64, torch.float32, 32, None, "input is torch.float64"),
        (torch.float32, torch.bfloat16, 32, None, "a parameter is torch.bfloat16 on cpu"),
        (torch.bfloat16, torch.float32, 32, None, "input is torch.bfloat16 without autocast"),
        (torch.float32, torch.float32, 24, None, "tokens are 24 wide (it takes multiples of 16)"),
        (torch.float32, torch.float32, 32, torch.float16, "autocast is to torch.float16"),
    ],
)
def test_the_reference_serves_the_rest_and_it_is_said_why(input, parameter, width, autocast, reason):
    arguments = torch.zeros(2, 3, width, dtype=input), [torch.zeros(width, width, dtype=parameter)], (width,)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        assert any(reason in r for r in routing.not_supported_reasons("stream_linear", "cpu", *arguments))
        assert routing.select("stream_linear", *arguments) is reference
