"""What torch asks of the attention operators on the CPU: schema, fakes, autograd, compilation, autocast, transforms, refusals."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from intraformer_fast import functional as F
from intraformer_fast import native, reference

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

OPS = torch.ops.intraformer_fast
LAYOUTS = {
    "contiguous": lambda *shape: torch.randn(shape),
    "permuted": lambda *shape: torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))),
    "broadcast": lambda *shape: torch.randn(1, *shape[1:]).expand(shape),
    "no clusters": lambda first, *shape: torch.randn(0, *shape),
}


def block_arguments(layout, masked=True):
    q, k, v = (LAYOUTS[layout](3, 2, 9, 8) for _ in range(3))
    return q, k, v, torch.rand(len(q), 9) < 0.7 if masked else None, 2, 0.4


def gather_arguments(layout, masked=True):
    tables = [LAYOUTS[layout](11, 2, 8) for _ in range(3)]
    ids = torch.randint(-1 if masked else 0, 11, (3, 9)) if len(tables[0]) else torch.full((3, 9), -1)
    return *tables, ids, 2, 0.4


def stream_arguments(layout, masked=True):
    member, anchor = LAYOUTS[layout](3, 7, 8), LAYOUTS[layout](3, 4, 8)
    masks = [torch.rand(len(member), length) < 0.7 if masked else None for length in (7, 4)]
    return member, anchor, torch.randn(2, 8, 8) / 8, *masks, 2, False, True


def gather_stream_arguments(layout, masked=True):
    """Members of their own, the anchor from a table."""
    member, _, weight, valid, *_ = stream_arguments(layout, masked)
    ids = torch.randint(-1 if masked else 0, 11, (len(member), 4))
    return member, LAYOUTS["contiguous"](11, 8), weight, valid, None, 2, False, None, ids


ARGUMENTS = {
    "block_attention": block_arguments,
    "gather_block_attention": gather_arguments,
    "correlation_attention": stream_arguments,
    "gather_correlation_attention": gather_stream_arguments,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", ARGUMENTS)
def test_opcheck(op, layout, masked, dtype):
    arguments = [
        a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in ARGUMENTS[op](layout, masked)
    ]
    forward, backward = getattr(OPS, op), getattr(OPS, f"{op}_backward")
    leaves = [
        a.detach().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments
    ]
    torch.library.opcheck(forward, leaves)
    if op == "gather_correlation_attention":
        return  # a composition on the CPU, whose gradients are torch's
    output, *kept = forward(*arguments) if op == "correlation_attention" else [forward(*arguments)]
    torch.library.opcheck(
        backward, (torch.ones(()).to(output).expand_as(output), *kept, *arguments[: len(arguments) - len(kept)])
    )


# The public functions, on leaves.
FUNCTIONS = {
    "block_attention": (
        lambda q, k, v: F.block_attention(q, k, v, 2, valid=torch.arange(5) < torch.tensor([[5], [3], [0]])),
        [(3, 2, 5, 4)] * 3,
    ),
    "gather_block_attention": (
        lambda q, k, v: F.gather_block_attention(q, k, v, torch.tensor([[0, 3, -1, 3], [2, 1, 0, -1]]), 2),
        [(4, 2, 4)] * 3,
    ),
    "correlation_attention": (
        lambda x, c, w: F.correlation_attention(x, c, w, valid_context=torch.arange(4) < torch.tensor([[4], [2], [0]])),
        [(3, 5, 4), (3, 4, 4), (4, 4)],
    ),
    "gather_correlation_attention": (
        lambda x, c, w: F.gather_correlation_attention(
            x, c, w, torch.tensor([[0, 3, -1], [2, 2, 1], [0, 1, 2]]), torch.tensor([[4, -1], [0, 0], [-1, -1]])
        ),
        [(4, 4), (5, 4), (4, 4)],
    ),
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_float64_is_the_reference(op):
    function, shapes = FUNCTIONS[op]
    leaves = [torch.rand(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_second_gradients_and_those_of_sums(op):
    function, shapes = FUNCTIONS[op]
    leaves = [torch.rand(shape).requires_grad_() for shape in shapes]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found, expected = [], []
    for inputs, results in ((leaves, found), (exact, expected)):
        # .sum() hands the backward pass a gradient of stride 0.
        first = torch.autograd.grad(function(inputs[0], *inputs[1:]).sum(), inputs)
        again = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        results += [*first, *torch.autograd.grad(sum(g.square().sum() for g in again), inputs)]
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_compiles_without_a_break(op, dynamic):
    function, shapes = FUNCTIONS[op]
    compiled = torch.compile(
        lambda *leaves: function(*leaves).square().sum(), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    found = torch.autograd.grad(compiled(*leaves), leaves)
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_autocast_and_transforms(op):
    function, shapes = FUNCTIONS[op]
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    with torch.autocast("cpu", torch.bfloat16):
        output = function(*leaves)
    assert output.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(output.float().sum(), leaves))
    gradient = torch.func.grad(lambda *inputs: function(*inputs).square().sum())(*leaves)
    torch.testing.assert_close(gradient, torch.autograd.grad(function(*leaves).square().sum(), leaves)[0])


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("block_attention", lambda a: [a[0][0], *a[1:]], r"q, k and v are not of one shape \[B, H, n, D\]"),
        ("block_attention", lambda a: [a[0].half(), *a[1:]], "not all of one dtype on the CPU"),
        ("block_attention", lambda a: [t.double() for t in a[:3]] + a[3:], "not float32, bfloat16 or float16"),
        ("block_attention", lambda a: [*a[:3], torch.ones(3, 8).bool(), *a[4:]], r"valid is not bool \[B, n\]"),
        ("block_attention", lambda a: [*a[:4], 0, a[5]], "num_blocks is not positive"),
        ("gather_block_attention", lambda a: [*a[:3], a[3].float(), *a[4:]], "neighbors is not int32 or int64"),
        ("gather_block_attention", lambda a: [a[0][:5], *a[1:]], r"the tables are not of one shape \[N, H, D\]"),
        ("correlation_attention", lambda a: [*a[:5], 3, *a[6:]], r"weight is not \[num_streams, d, d\] or \[1, d, d\]"),
        (
            "correlation_attention",
            lambda a: [a[0], a[1][:, :3], *a[2:4], None, 2, True, True],
            "the anchor, which asks, is shorter",
        ),
        ("correlation_attention", lambda a: [a[0], a[1][:2], *a[2:]], r"anchor is not \[B, s, d\]"),
        ("correlation_attention", lambda a: [*a[:4], a[4][:2], *a[5:]], r"valid_anchor is not bool \[B, s\]"),
    ],
)
def test_bad_arguments_are_refused(op, change, message):
    arguments = list(ARGUMENTS[op]("contiguous"))
    getattr(OPS, op)(*arguments)
    with pytest.raises(ValueError, match=message):
        getattr(OPS, op)(*change(arguments))


def test_the_model_trains_through_them():
    from intraformer_fast import nn

    torch.manual_seed(0)
    for options in ({}, {"cross_query": "anchor"}):
        fast = nn.Intraformer(32, 23, 4, 2, 2, **options)
        eager = reference.Intraformer(32, 23, 4, 2, 2, **options)
        eager.load_state_dict(fast.state_dict())
        x, valid = torch.nn.functional.normalize(torch.randn(5, 23, 32), dim=-1), torch.rand(5, 23) < 0.8
        for model in (fast, eager):
            model(x, valid).square().sum().backward()
        for (name, found), expected in zip(fast.named_parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
