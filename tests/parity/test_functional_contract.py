"""The public ops: equal to PyTorch's own attention where it can say the same, and clear about bad calls."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from intraformer_fast import functional as F


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize("num_blocks", [1, 3, 4, 11])
def test_block_attention_is_sdpa_with_a_block_diagonal_mask(num_blocks):
    q, k, v = (randn(2, 3, 11, 8) for _ in range(3))
    run = torch.cat([torch.full((len(part),), i) for i, part in enumerate(torch.arange(11).tensor_split(num_blocks))])
    expected = scaled_dot_product_attention(q, k, v, attn_mask=run[:, None] == run)
    torch.testing.assert_close(F.block_attention(q, k, v, num_blocks), expected)
    scaled = scaled_dot_product_attention(q, k, v, attn_mask=run[:, None] == run, scale=0.7)
    torch.testing.assert_close(F.block_attention(q, k, v, num_blocks, scale=0.7), scaled)


def test_correlation_attention_is_sdpa_with_keys_as_values():
    x, c, w = randn(2, 3, 5, 8), randn(2, 3, 7, 8), randn(8, 8)
    expected = scaled_dot_product_attention(x @ w, c, c, scale=1.0)
    torch.testing.assert_close(F.correlation_attention(x, c, w), expected)


def test_a_context_without_a_valid_token_gives_zeros():
    x, c, w = randn(2, 5, 4).requires_grad_(), randn(2, 3, 4).requires_grad_(), randn(4, 4).requires_grad_()
    out = F.correlation_attention(x, c, w, valid_context=torch.tensor([[True] * 3, [False] * 3]))
    assert (out[1] == 0).all()
    assert (out[0] != 0).all()
    out[1].sum().backward()
    assert all((t.grad == 0).all() for t in (x, c, w))


def test_gather_equals_gathering_first():
    tables = [randn(9, 2, 4) for _ in range(3)]
    neighbors = torch.randint(-1, 9, (5, 7))
    q, k, v = (t[neighbors.clamp(min=0)].transpose(1, 2) for t in tables)
    expected = F.block_attention(q, k, v, 3, valid=neighbors >= 0)
    assert torch.equal(F.gather_block_attention(*tables, neighbors, 3), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [torch.int64, torch.int32])
def test_c_att_of_tables_equals_gathering_first(dtype, ids):
    tables = randn(9, 8, dtype=dtype), randn(11, 8, dtype=dtype)
    asks, seen = torch.randint(-1, 9, (5, 7), dtype=ids), torch.randint(-1, 11, (5, 4), dtype=ids)
    seen[0], asks[1] = -1, -1
    weight = randn(8, 8, dtype=dtype)
    x, c = (table[i.clamp(min=0)] for table, i in zip(tables, (asks, seen), strict=True))
    expected = F.correlation_attention(x, c, weight, valid_context=seen >= 0)
    expected = expected.masked_fill((asks < 0)[..., None], 0.0)
    assert torch.equal(F.gather_correlation_attention(*tables, weight, asks, seen), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_c_att_of_tables_leaves_padding_and_rows_that_nobody_names(dtype):
    tables = [randn(6, 8, dtype=dtype) for _ in range(2)]
    for table in tables:
        table[:2] = torch.nan
        table.requires_grad_()
    asks, seen = torch.tensor([[2, -1, 5], [-1, 4, 4]]), torch.tensor([[3, -1, 3, 2], [-1, -1, -1, -1]])
    weight = randn(8, 8, dtype=dtype).requires_grad_()
    output = F.gather_correlation_attention(*tables, weight, asks, seen)
    gradients = torch.autograd.grad(output.square().sum(), [*tables, weight])
    assert all(t.isfinite().all() for t in (output, *gradients))
    assert (output[asks < 0] == 0).all()
    assert (output[1] == 0).all()
    assert (gradients[0][:2] == 0).all()
    assert (gradients[0][4] == 0).all(), "it asked where nothing is to be looked at"
    assert (gradients[1][:2] == 0).all()


@pytest.mark.parametrize(
    "layout",
    [lambda t: t.transpose(1, 2).contiguous().transpose(1, 2), lambda t: t[:1].expand_as(t), lambda t: t[..., ::2]],
)
def test_any_strides(layout):
    q, k, v = (layout(randn(3, 2, 6, 8)) for _ in range(3))
    expected = F.block_attention(q.contiguous(), k.contiguous(), v.contiguous(), 2)
    torch.testing.assert_close(F.block_attention(q, k, v, 2), expected)


BAD_CALLS = [
    (
        lambda: F.block_attention(randn(1, 1, 4, 2), randn(1, 1, 5, 2), randn(1, 1, 4, 2), 2),
        ValueError,
        "expected the same",
    ),
    (lambda: F.block_attention(*[randn(1, 4, 2)] * 3, 2), ValueError, r"expected the same \[B, H, n, D\]"),
    (lambda: F.block_attention(*[randn(1, 1, 4, 2)] * 3, 0), ValueError, "num_blocks = 0: expected at least 1"),
    (lambda: F.block_attention(*[torch.ones(1, 1, 4, 2).long()] * 3, 1), TypeError, "one floating-point dtype for all"),
    (
        lambda: F.block_attention(randn(1, 1, 4, 2), randn(1, 1, 4, 2).float(), randn(1, 1, 4, 2), 1),
        TypeError,
        "one floating-point dtype for all",
    ),
    (
        lambda: F.block_attention(*[randn(1, 1, 4, 2)] * 3, 1, valid=torch.ones(1, 3).bool()),
        ValueError,
        r"valid has shape \(1, 3\): expected \(1, 4\)",
    ),
    (
        lambda: F.block_attention(*[randn(1, 1, 4, 2)] * 3, 1, valid=torch.ones(1, 4)),
        TypeError,
        r"expected torch\.bool",
    ),
    (lambda: F.correlation_attention(randn(3, 4), randn(5, 4), randn(4, 5)), ValueError, r"and \[d, d\]"),
    (lambda: F.correlation_attention(randn(2, 3, 4), randn(5, 4), randn(4, 4)), ValueError, "same leading dimensions"),
    (lambda: F.gather_block_attention(*[randn(5, 1, 2)] * 3, torch.zeros(2, 3), 1), TypeError, "int64 or torch.int32"),
    (
        lambda: F.gather_block_attention(*[randn(5, 1, 2)] * 3, torch.zeros(3).long(), 1),
        ValueError,
        r"expected \[B, n\]",
    ),
    (lambda: F.gather_block_attention(*[randn(5, 1, 2)] * 3, torch.full((1, 3), 5), 1), IndexError, "out of"),
    (
        lambda: F.gather_correlation_attention(randn(5, 4), randn(5, 3), randn(4, 4), *[torch.zeros(2, 3).long()] * 2),
        ValueError,
        r"expected \[N, d\], \[M, d\] and \[d, d\]",
    ),
    (
        lambda: F.gather_correlation_attention(
            randn(5, 4), randn(5, 4), randn(4, 4), torch.zeros(2, 3).long(), torch.zeros(3, 3).long()
        ),
        ValueError,
        "have 2 and 3 clusters",
    ),
    (
        lambda: F.gather_correlation_attention(*[randn(5, 4)] * 2, randn(4, 4), *[torch.zeros(2, 3)] * 2),
        TypeError,
        "query_neighbors is torch.float32: expected torch.int64",
    ),
    (
        lambda: F.gather_correlation_attention(*[randn(5, 4)] * 2, randn(4, 4), *[torch.full((1, 3), 5)] * 2),
        IndexError,
        "out of",
    ),
    (lambda: F.purity_fmi(randn(2, 3), torch.ones(3)), ValueError, r"expected the same \[B, n\]"),
    (lambda: F.purity_fmi(torch.ones(2, 3).long(), torch.ones(2, 3)), TypeError, "expected one floating-point dtype"),
    (lambda: F.purity_fmi(randn(2, 3), torch.ones(2, 3), bound="upper"), ValueError, "bound = 'upper'"),
    (lambda: F.purity_fmi(randn(2, 3), torch.ones(2, 3, dtype=torch.cfloat)), TypeError, "expected bool"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_calls_are_refused_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()
