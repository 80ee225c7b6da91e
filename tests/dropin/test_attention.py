"""BlockSelfAttention is torch.nn.MultiheadAttention, and attends inside blocks; CorrelationAttention is the op with its matrix."""

import copy

import pytest
import torch
from torch import nn

import intraformer_fast as ifast
from intraformer_fast import reference
from intraformer_fast.bench import parity

WIDTH, HEADS, BATCH, TOKENS = 48, 3, 6, 37


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def modules(num_blocks=1, **options):
    fast = ifast.nn.BlockSelfAttention(WIDTH, HEADS, num_blocks=num_blocks, **options)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    eager = nn.MultiheadAttention(WIDTH, HEADS, **options)
    eager.load_state_dict(fast.state_dict())
    return fast, eager


def mask_of(num_blocks, n=TOKENS):
    """True where a token may not look, as torch has it."""
    block = torch.empty(n, dtype=torch.int64)
    for i, (start, stop) in enumerate(reference.subcluster_bounds(n, num_blocks)):
        block[start:stop] = i
    return block[:, None] != block


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 4])
def test_parity_with_gradients(num_blocks, batch_first, bias, alike):
    fast, eager = modules(num_blocks, batch_first=batch_first, bias=bias)
    exact = copy.deepcopy(eager).double()
    mask = mask_of(num_blocks) if num_blocks > 1 else None
    shape = (BATCH, TOKENS, WIDTH) if batch_first else (TOKENS, BATCH, WIDTH)
    inputs, grad = [torch.randn(shape) for _ in range(1 if alike else 3)], torch.randn(shape)

    def run(module, dtype, **options):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        output, weights = module(*(leaves * 3 if alike else leaves), need_weights=False, **options)
        assert weights is None
        gradients = torch.autograd.grad(output, [*leaves, *module.parameters()], grad.to(dtype))
        return {"output": output.detach()} | {str(i): g for i, g in enumerate(gradients)}

    found = run(fast, torch.float32)
    verdict = parity.check(found, run(eager, torch.float32, attn_mask=mask), run(exact, torch.float64, attn_mask=mask))
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize("num_blocks", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"need_weights": True},
        {"need_weights": True, "average_attn_weights": False},
        {"need_weights": False, "key_padding_mask": torch.arange(TOKENS).expand(BATCH, -1) % 9 == 8},
        {"need_weights": False, "attn_mask": torch.eye(TOKENS).roll(1, 0) > 0},
        {"need_weights": True, "attn_mask": torch.randn(TOKENS, TOKENS)},
    ],
    ids=["weights", "weights of heads", "padding", "mask", "numbers to add"],
)
def test_what_the_op_does_not_serve_is_torchs(options, num_blocks):
    fast, eager = modules(num_blocks, batch_first=True)
    x = torch.randn(BATCH, TOKENS, WIDTH)
    theirs = dict(options)
    if num_blocks > 1:
        mask, beyond = options.get("attn_mask"), mask_of(num_blocks)
        theirs["attn_mask"] = (
            beyond
            if mask is None
            else mask | beyond
            if mask.dtype == torch.bool
            else mask.masked_fill(beyond, -torch.inf)
        )
    for ours, torchs in zip(fast(x, x, x, **options), eager(x, x, x, **theirs), strict=True):
        torch.testing.assert_close(ours, torchs)
    fast.backend = "cpu"
    with pytest.raises(NotImplementedError, match=r"mask|weights"):
        fast(x, x, x, **options)


def test_queries_of_another_length_and_without_a_batch_are_torchs():
    fast, eager = modules(batch_first=True)
    query, context = torch.randn(BATCH, 5, WIDTH), torch.randn(BATCH, 9, WIDTH)
    torch.testing.assert_close(fast(query, context, context), eager(query, context, context))
    torch.testing.assert_close(fast(*[query[0]] * 3, need_weights=False), eager(*[query[0]] * 3, need_weights=False))
    with pytest.raises(ValueError, match="5 queries and 9 keys"):
        modules(2, batch_first=True)[0](query, context, context)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_blocks = 0"):
        ifast.nn.BlockSelfAttention(WIDTH, HEADS, num_blocks=0)
    with pytest.raises(ValueError, match="backend = 'gpu'"):
        ifast.nn.BlockSelfAttention(WIDTH, HEADS, backend="gpu")
    with pytest.raises(ValueError, match="embed_dim = 0"):
        ifast.nn.CorrelationAttention(0)


def test_correlation_attention():
    module = ifast.nn.CorrelationAttention(WIDTH)
    x, context, valid = torch.randn(2, 3, 5, WIDTH), torch.randn(2, 3, 9, WIDTH), torch.rand(2, 3, 9) < 0.7
    expected = reference.correlation_attention(x, context, module.weight, valid_context=valid)
    torch.testing.assert_close(module(x, context, valid), expected)
    module(x, context).sum().backward()
    assert module.weight.grad.isfinite().all()
    assert ifast.nn.CorrelationAttention(WIDTH, dtype=torch.float64).weight.dtype == torch.float64
