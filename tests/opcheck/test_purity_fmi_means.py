"""The batch means of the losses: against the reference, and what torch asks of an operator."""

import pytest
import torch
from cases.inductor import needs_compiler
from torch.autograd import gradcheck, gradgradcheck

from intraformer_fast import native, reference
from intraformer_fast.nn import IntraformerLoss
from intraformer_fast.ops import routing
from intraformer_fast.ops.purity_fmi_means import purity_fmi_means

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

COUNTED = {
    "all": lambda rows: None,
    "some": lambda rows: torch.arange(rows) % 3 != 1,
    "none": lambda rows: torch.zeros(rows, dtype=torch.bool),
}


def batch(rows, dtype=torch.float64):
    return torch.rand(rows, dtype=dtype).requires_grad_(), torch.rand(rows, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counted", COUNTED)
@pytest.mark.parametrize("rows", [0, 1, 2, 33, 1000])
@pytest.mark.parametrize("detach_point", [True, False])
def test_means_and_gradients_equal_the_reference(rows, counted, dtype, detach_point):
    (loss, purity), counts = batch(rows, dtype), COUNTED[counted](rows)
    assert routing.select("purity_fmi_means", loss, purity, counts).__name__.endswith("ops.purity_fmi_means")
    fast = purity_fmi_means(loss, purity, counted=counts, detach_point=detach_point)
    plain = reference.purity_fmi_means(loss, purity, counted=counts, detach_point=detach_point)
    grads = tuple(torch.randn(3, dtype=dtype))
    for f, p in zip(
        (*fast, *torch.autograd.grad(fast, (loss, purity), grads)),
        (*plain, *torch.autograd.grad(plain, (loss, purity), grads)),
        strict=True,
    ):
        torch.testing.assert_close(f, p)


def test_rows_that_do_not_count_may_hold_anything():
    loss, purity = (t.detach() for t in batch(9))
    counted = COUNTED["some"](9)
    clean = purity_fmi_means(loss, purity, counted=counted)
    poisoned = (t.masked_fill(~counted, torch.nan).requires_grad_() for t in (loss, purity))
    leaves = tuple(poisoned)
    found = purity_fmi_means(*leaves, counted=counted)
    assert all(map(torch.equal, clean, found))
    for gradient in torch.autograd.grad(sum(found), leaves):
        assert torch.equal(gradient[~counted], torch.zeros(3, dtype=gradient.dtype))


@pytest.mark.parametrize("detach_point", [True, False])
@pytest.mark.parametrize("counted", COUNTED)
def test_opcheck_and_compilation(counted, detach_point):
    (loss, purity), counts = batch(7, torch.float32), COUNTED[counted](7)
    ops = torch.ops.intraformer_fast
    torch.library.opcheck(ops.purity_fmi_means, (loss, purity, counts, detach_point))
    means = ops.purity_fmi_means(loss, purity, counts, detach_point).detach()
    torch.library.opcheck(
        ops.purity_fmi_means_backward, (torch.ones(()).expand(5), purity.detach(), counts, means, detach_point)
    )


def test_first_and_second_gradients():
    loss, purity = batch(6)

    def op(a, b):
        return purity_fmi_means(a, b, counted=COUNTED["some"](6), detach_point=False)

    assert gradcheck(op, (loss, purity))
    assert gradgradcheck(op, (loss, purity))


@needs_compiler
@pytest.mark.parametrize("fairness_point", ["mean", "median", 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_compiles_whole_and_takes_the_native_ops(monkeypatch, masked, fairness_point):
    criterion = IntraformerLoss(fairness_point=fairness_point, detach_fairness_point=False)
    logits, target = torch.randn(8, 20, requires_grad=True), torch.rand(8, 20) < 0.4
    valid = torch.arange(20) < torch.arange(13, 21)[:, None] if masked else None
    eager = criterion(logits, target, valid)
    (gradient,) = torch.autograd.grad(eager, logits)
    compiled = torch.compile(criterion, fullgraph=True)(logits, target, valid)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(torch.autograd.grad(compiled, logits)[0], gradient)

    served = []
    select = routing.select
    monkeypatch.setattr(routing, "select", lambda op, *args: served.append((op, select(op, *args))) or served[-1][1])
    criterion(logits, target, valid)
    assert [(op, module.__name__) for op, module in served] == [
        (op, f"intraformer_fast.ops.{op}") for op in ("purity_fmi", "purity_fmi_means")
    ]
