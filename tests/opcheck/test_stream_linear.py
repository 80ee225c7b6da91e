"""What torch asks of the linear layers of all streams: schema, fakes, autograd, compilation, second derivatives, refusals."""

import pytest
import torch

import intraformer_fast
from intraformer_fast import native, reference

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

OPS = torch.ops.intraformer_fast
LAYOUTS = {
    "contiguous": lambda *shape: torch.randn(shape),
    "permuted": lambda *shape: torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))),
    "broadcast": lambda *shape: torch.randn(1, *shape[1:]).expand(shape),
    "no clusters": lambda *shape: torch.randn(0 if len(shape) == 3 else shape[0], *shape[1:]),
}


def arguments(layout, before, bfloat16=False):
    draw = LAYOUTS[layout]
    norms = [[draw(16) for _ in range(2)] if before == "norm" else [] for _ in range(2)]
    weights, biases = [draw(32, 16) for _ in range(2)], [draw(32) for _ in range(2)]
    return [draw(3, 5, 16), draw(3, 5, 32), weights, biases, *norms, before == "gelu", 1e-5, bfloat16]


def leaf(value):
    if isinstance(value, list):
        return [leaf(v) for v in value]
    return value.detach().requires_grad_() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("before", ["nothing", "norm", "gelu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, before, bfloat16):
    given = arguments(layout, before, bfloat16)
    torch.library.opcheck(OPS.stream_linear, [leaf(a) for a in given])
    given[1] = given[1] if layout == "permuted" else None
    torch.library.opcheck(OPS.stream_linear, [leaf(a) for a in given])
    output, moments = OPS.stream_linear(*given)
    input, _, weights, _, norm_weights, norm_biases, gelu, _, _ = given
    grad = torch.ones(()).to(output).expand_as(output)
    torch.library.opcheck(
        OPS.stream_linear_backward, (grad, input, moments, weights, norm_weights, norm_biases, gelu, bfloat16)
    )


@pytest.mark.parametrize("before", ["nothing", "norm", "gelu"])
def test_a_gradient_of_a_gradient(before):
    input, residual, *rest = [leaf(a) for a in arguments("contiguous", before)]
    weights = rest[0]

    def penalty(op):
        output = op(input, residual)
        (grad,) = torch.autograd.grad(output.square().sum(), input, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [input, residual, *weights])

    from intraformer_fast.ops import stream_linear

    found = penalty(lambda x, r: OPS.stream_linear(x, r, *rest)[0])
    expected = penalty(lambda x, r: stream_linear.composed(x, r, *rest[:-1]))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("k", [1, 2])
def test_the_model_in_training_compiles_into_one_graph(k):
    torch.compiler.reset()
    torch.manual_seed(0)
    model = intraformer_fast.nn.Intraformer(32, 8, k, 1, 2).train()
    x = torch.randn(3, 8, 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for run in (model, compiled):
        logits = run(x)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_a_transform_of_functions_is_served_by_the_reference():
    model = intraformer_fast.nn.Intraformer(32, 8, 1, 1, 2).eval()
    twin = reference.Intraformer(32, 8, 1, 1, 2).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, 8, 32)
    torch.testing.assert_close(torch.vmap(model)(x), torch.vmap(twin)(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.randn(3, 5, 8)}, r"input is not a float32 or bfloat16 tensor \[3, 5, 16\]"),
        ({1: torch.randn(3, 5, 16)}, r"residual is not a float32 or bfloat16 tensor \[3, 5, 32\]"),
        ({2: []}, "weights is not a list of matrices"),
        ({3: [torch.randn(32)]}, "not as many biases"),
        ({4: [torch.randn(16)]}, "norm_weights and norm_biases"),
        ({2: [torch.randn(24, 16)] * 2}, "a width is not a multiple of 16"),
        ({6: True}, "a LayerNorm and a GELU"),
    ],
)
def test_a_wrong_call_is_refused(change, message):
    given = arguments("contiguous", "norm")
    for position, value in change.items():
        given[position] = value
    with pytest.raises(ValueError, match=message):
        OPS.stream_linear(*given)
