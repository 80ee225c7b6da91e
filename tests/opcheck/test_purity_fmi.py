"""What torch asks of an operator: schema, fake tensors, autograd, compilation, autocast, transforms."""

import pytest
import torch
from cases.inductor import needs_compiler
from torch.autograd import gradcheck, gradgradcheck

from intraformer_fast import functional as F
from intraformer_fast import native, reference

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

LAYOUTS = {
    "contiguous": lambda: torch.randn(5, 12),
    "permuted": lambda: torch.randn(12, 5).t(),
    "broadcast": lambda: torch.randn(1, 12).expand(5, 12),
    "no rows": lambda: torch.randn(0, 12),
    "no columns": lambda: torch.randn(5, 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, masked, dtype):
    prediction = LAYOUTS[layout]().to(dtype)
    target = torch.rand(prediction.shape) < 0.5
    valid = torch.rand(prediction.shape) < 0.7 if masked else None
    ops = torch.ops.intraformer_fast
    for exact in (False, True):
        arguments = (prediction, target, valid, True, exact)
        torch.library.opcheck(ops.purity_fmi_forward, (prediction.detach().requires_grad_(), *arguments[1:]))
        loss, _, sums = ops.purity_fmi_forward(*arguments)
        torch.library.opcheck(
            ops.purity_fmi_backward,
            (torch.ones_like(loss), torch.ones(()).to(loss).expand(len(loss)), sums, *arguments),
        )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("bound", ["dice", "exact"])
def test_first_and_second_gradients(bound, from_logits, masked):
    prediction = torch.rand(3, 5, dtype=torch.float64).requires_grad_()
    target = torch.arange(15).reshape(3, 5) % 3 == 0
    valid = torch.arange(5) < torch.tensor([[5], [3], [0]]) if masked else None

    def op(p):
        return F.purity_fmi(p, target, from_logits=from_logits, valid=valid, bound=bound)

    assert gradcheck(op, (prediction,))
    assert gradgradcheck(op, (prediction,))


def test_gradient_of_one_output_alone():
    prediction, target = torch.randn(4, 6), torch.rand(4, 6) < 0.5
    for which in (0, 1):
        found, expected = (
            torch.autograd.grad(op(leaf, target)[which].sum(), leaf)[0]
            for op in (F.purity_fmi, reference.purity_fmi)
            for leaf in [prediction.clone().requires_grad_()]
        )
        torch.testing.assert_close(found, expected)


@needs_compiler
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic):
    def objective(prediction, target, valid):
        loss, purity = F.purity_fmi(prediction, target, valid=valid)
        return loss.mean() + (purity - purity.mean()).abs().mean()

    compiled = torch.compile(objective, fullgraph=True, dynamic=dynamic)
    for rows in (4, 6):
        arguments = torch.rand(rows, 9) < 0.5, torch.rand(rows, 9) < 0.8
        leaves = [torch.randn(rows, 9).requires_grad_()]
        leaves.append(leaves[0].detach().clone().requires_grad_())
        values = [run(leaf, *arguments) for run, leaf in zip((compiled, objective), leaves, strict=True)]
        torch.testing.assert_close(*values)
        for value in values:
            value.backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_autocast_leaves_the_result_in_float32():
    prediction, target = torch.randn(4, 6).bfloat16(), torch.rand(4, 6) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        inside = F.purity_fmi(prediction, target)
    outside = F.purity_fmi(prediction, target)
    assert all(i.dtype == torch.float32 and torch.equal(i, o) for i, o in zip(inside, outside, strict=True))


def test_shapes_without_data():
    loss, purity = F.purity_fmi(torch.empty(10**9, 10**4, device="meta"), torch.empty(10**9, 10**4, device="meta"))
    assert loss.shape == purity.shape == (10**9,)
    with torch._subclasses.FakeTensorMode():
        prediction = torch.empty(10**9, 10**4, requires_grad=True)
        loss, purity = F.purity_fmi(prediction, torch.empty(10**9, 10**4, dtype=torch.bool))
        (loss.sum() + purity.sum()).backward()
    assert prediction.grad.shape == (10**9, 10**4)


def test_transforms_of_torch_func():
    """They are served by the reference: the gradients of a native op do not work inside them."""
    logits, target = torch.randn(3, 4, 6), torch.rand(4, 6) < 0.5
    loss, purity = torch.vmap(lambda z: F.purity_fmi(z, target))(logits)
    for i in range(3):
        torch.testing.assert_close((loss[i], purity[i]), F.purity_fmi(logits[i], target))

    def total(z):
        return sum(t.sum() for t in F.purity_fmi(z, target))

    leaf = logits[0].clone().requires_grad_()
    total(leaf).backward()
    torch.testing.assert_close(torch.vmap(torch.func.grad(total))(logits)[0], leaf.grad)
    torch.testing.assert_close(torch.func.jvp(total, (logits[0],), (torch.ones(4, 6),))[1], leaf.grad.sum())


def test_bad_calls_of_the_operator_itself():
    op = torch.ops.intraformer_fast.purity_fmi_forward
    good = torch.zeros(2, 3), torch.zeros(2, 3)
    for arguments, message in [
        ((good[0].long(), good[1], None), "prediction is not float32"),
        ((good[0], good[1].int(), None), "target is not bool"),
        ((good[0], good[1][:, :2], None), r"target is not \[B, n\]"),
        ((good[0], good[1], good[0]), "valid is not bool"),
        ((good[0], good[1], torch.ones(3).bool()), r"valid is not \[B, n\]"),
        ((good[0][0], good[1][0], None), r"prediction is not \[B, n\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            op(*arguments, True, False)
