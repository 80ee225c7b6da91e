"""Float64 gradcheck of everything differentiable, with contiguous, expanded and transposed gradients."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck

from intraformer_fast import functional as F
from intraformer_fast.nn import Intraformer, IntraformerLoss


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def mask(b, n):
    """Some padding at the end, one row all padding where there are enough rows."""
    lengths = torch.tensor([n, max(1, n - 2), 0, 1][:b])
    return torch.arange(n) < lengths[:, None]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n", "num_blocks"), [(5, 1), (5, 2), (7, 3), (3, 5)])
def test_block_attention(n, num_blocks, masked):
    q, k, v = (randn(4, 2, n, 3, seed=s) for s in range(3))
    valid = mask(4, n) if masked else None
    assert gradcheck(lambda *a: F.block_attention(*a, num_blocks, valid=valid), (q, k, v))
    assert gradcheck(lambda *a: F.block_attention(*a, num_blocks, valid=valid, scale=0.3).sum(), (q, k, v))
    assert gradcheck(lambda *a: F.block_attention(*a, num_blocks, valid=valid).mT.reshape(-1), (q, k, v))


@pytest.mark.parametrize("masked", [False, True])
def test_correlation_attention(masked):
    x, c, w = randn(4, 3, 6, seed=1), randn(4, 5, 6, seed=2), randn(6, 6, seed=3)
    valid = mask(4, 5) if masked else None
    assert gradcheck(lambda *a: F.correlation_attention(*a, valid_context=valid), (x, c, w))
    assert gradcheck(lambda *a: F.correlation_attention(*a, valid_context=valid).sum(), (x, c, w))


def test_gather_block_attention():
    q, k, v = (randn(6, 2, 3, seed=s) for s in range(3))
    neighbors = torch.tensor([[0, 1, 2, 3, 4], [5, 0, 5, -1, -1], [-1, -1, -1, -1, -1]])
    assert gradcheck(lambda *a: F.gather_block_attention(*a, neighbors, 2), (q, k, v))


def test_gather_correlation_attention():
    x, c, w = randn(6, 3, seed=0), randn(5, 3, seed=1), randn(3, 3, seed=2)
    asks = torch.tensor([[0, 5, -1], [1, 1, 4], [2, 3, 0]])
    seen = torch.tensor([[4, 0], [-1, 4], [-1, -1]])
    assert gradcheck(lambda *a: F.gather_correlation_attention(*a, asks, seen), (x, c, w))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("bound", ["dice", "exact"])
def test_purity_fmi(bound, from_logits, masked):
    prediction = randn(4, 6)
    if not from_logits:
        prediction = prediction.detach().sigmoid().requires_grad_()
    target = (torch.arange(24).reshape(4, 6) % 3 == 0).double()
    target[1] = 0
    valid = mask(4, 6) if masked else None
    assert gradcheck(
        lambda p: F.purity_fmi(p, target, from_logits=from_logits, valid=valid, bound=bound), (prediction,)
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fairness_point", ["mean", "median", 0.3])
@pytest.mark.parametrize("bce_warmup", ["ramp", "step", "sum", "none"])
def test_objective(bce_warmup, fairness_point, masked):
    # The point is not detached: with it detached the gradient is, by design, not that of the value.
    loss = IntraformerLoss(
        bce_warmup=bce_warmup, fairness_point=fairness_point, detach_fairness_point=False, fairness_warmup=0.1
    )
    logits, target = randn(4, 6), torch.arange(24).reshape(4, 6) % 3 == 0
    valid = mask(4, 6) if masked else None
    assert gradcheck(lambda z: loss(z, target, valid, progress=0.7), (logits,))


@pytest.mark.parametrize(
    ("k", "position", "similarity", "cross_query", "shared"),
    [
        *itertools.product([3], ["learned"], [False], ["member", "anchor"], [False, True]),
        (1, "sinusoidal", True, "member", False),
        (2, "none", True, "anchor", False),
        (7, "learned", True, "member", True),
    ],
)
def test_model(k, position, similarity, cross_query, shared):
    torch.manual_seed(0)
    model = Intraformer(
        4, 5, k, 2, 2, input_dim=3, ffn_dim=6, position=position, similarity_input=similarity,
        cross_query=cross_query, share_cross_weights=shared,
    ).double()  # fmt: skip
    x, valid = randn(3, 5, 3), mask(3, 5)
    names = [name for name, _ in model.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in model.parameters()]

    def run(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x, valid))

    assert gradcheck(run, (x, *parameters), fast_mode=True)


def test_detached_fairness_point_is_a_constant_to_the_gradient():
    logits, target = randn(3, 5), torch.arange(15).reshape(3, 5) % 2 == 0
    only_fair = {"bce_warmup": "none", "fairness_warmup": 0.0}
    terms = IntraformerLoss(**only_fair).terms(logits, target)
    (detached,) = torch.autograd.grad(terms.fairness, logits)
    purity = F.purity_fmi(logits, target)[1]
    (expected,) = torch.autograd.grad((purity - purity.mean().detach()).abs().mean(), logits)
    torch.testing.assert_close(detached, expected)
    through = IntraformerLoss(**only_fair, detach_fairness_point=False).terms(logits, target)
    assert not torch.allclose(torch.autograd.grad(through.fairness, logits)[0], expected)
