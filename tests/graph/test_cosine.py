"""Candidates ordered by exact cosines: the native op gives the bits of the formula in torch, and what is worked out by hand."""

import numpy as np
import pytest
import torch

from intraformer_fast import native
from intraformer_fast.graph.cosine import NO_KEY, read_keys, unit_table

pytestmark = pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="; ".join(native.NOT_LOADED["cpu"]))


def best_cosines(*arguments):
    return torch.ops.intraformer_fast.best_cosines(*arguments)


def drawn(rows=300, width=20, queries=90, each=25, seed=0):
    """Rows of which many are equal, and candidates with gaps and the query itself among them."""
    rng = np.random.default_rng(seed)
    table = unit_table(rng.normal(size=(rows, width))[rng.integers(0, rows // 3, rows)])
    asked = torch.from_numpy(rng.integers(0, rows, queries))
    candidates = torch.from_numpy(np.stack([rng.permutation(rows)[:each] for _ in range(queries)]))
    candidates[:, 3] = torch.where((candidates == asked[:, None]).any(1), candidates[:, 3], asked)
    candidates[::2, 7:11] = -1
    return table, asked, candidates


@pytest.mark.parametrize("width", [1, 20, 128])
@pytest.mark.parametrize("count", [1, 9, 26])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_native_op_gives_the_bits_of_the_formula(width, count, threads, monkeypatch):
    table, asked, candidates = drawn(width=width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = table.nearest_among(asked, candidates, count)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setitem(native.NOT_LOADED, "cpu", ["asked for the formula"])
    assert torch.equal(found, table.nearest_among(asked, candidates, count))
    assert (found[::2, -1] == NO_KEY).all() == (count == 26)


def test_cosines_by_hand():
    table = unit_table([[2.0, 0, 0], [3, 4, 0], [0, 1, 0], [-1, 0, 0], [5, 0, 0]])
    keys = best_cosines(table.rows, table.inverse_norm, torch.tensor([0]), torch.tensor([[3, 2, -1, 4, 1, 0]]), 6)
    ids, cosines = read_keys(keys)
    assert ids.tolist() == [[0, 4, 1, 2, 3, -1]]
    assert cosines[0, 1:].tolist() == pytest.approx([1, 0.6, 0, -1, 0])
    assert cosines[0, 0] == torch.inf


BAD = {
    "rows is not": lambda r, n, q, c: (r.double(), n, q, c, 4),
    "inverse_norm is not": lambda r, n, q, c: (r, n[:-1], q, c, 4),
    "queries is not": lambda r, n, q, c: (r, n, q.int(), c, 4),
    "candidates is not": lambda r, n, q, c: (r, n, q, c.t(), 4),
    "count is not": lambda r, n, q, c: (r, n, q, c, 27),
    "a query is no row": lambda r, n, q, c: (r, n, q + 300, c, 4),
    "a candidate is no row": lambda r, n, q, c: (r, n, q, c - 1, 4),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_arguments_are_refused(words):
    table, asked, candidates = drawn()
    with pytest.raises(ValueError, match=words):
        best_cosines(*BAD[words](table.rows, table.inverse_norm, asked, candidates))


def test_nobody_asks():
    table, asked, candidates = drawn()
    assert best_cosines(table.rows, table.inverse_norm, asked[:0], candidates[:0], 4).shape == (0, 4)
    alone = best_cosines(table.rows, table.inverse_norm, asked, candidates[:, :0], 1)
    assert read_keys(alone)[0][:, 0].tolist() == asked.tolist()
