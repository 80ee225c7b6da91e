"""Inverted lists: the native search beside one written out, and what it is asked never to do."""

import numpy as np
import pytest
import torch

from intraformer_fast import native
from intraformer_fast.data import synthetic
from intraformer_fast.graph import knn, knn_graph
from intraformer_fast.graph.lists import InvertedLists, inverted_lists

pytestmark = pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="; ".join(native.NOT_LOADED["cpu"]))


def search(*arguments):
    return torch.ops.intraformer_fast.list_search(*arguments)


def drawn(rows, lists, queries, width, probes, seed=0, whole_numbers=False):
    generator = torch.Generator().manual_seed(seed)
    if whole_numbers:
        table = torch.randint(-2, 3, (rows, width), generator=generator).float()
        asked = torch.randint(-2, 3, (queries, width), generator=generator).float()
    else:
        table, asked = torch.randn(rows, width, generator=generator), torch.randn(queries, width, generator=generator)
    cuts = torch.randint(0, rows + 1, (lists - 1,), generator=generator).sort().values
    starts = torch.cat([torch.tensor([0]), cuts, torch.tensor([rows])])
    probed = torch.stack([torch.randperm(lists, generator=generator)[:probes] for _ in range(queries)])
    return table, starts, asked, probed.int()


def expected(rows, starts, queries, probes, count):
    """By falling score in float64, equal ones by rising place."""
    starts = starts.tolist()
    places = np.full((len(queries), count), -1)
    scores = np.full((len(queries), count), -np.inf)
    products = (queries.double() @ rows.double().T).numpy()
    for i, lists in enumerate(probes.tolist()):
        listed = np.concatenate([np.arange(starts[j], starts[j + 1]) for j in lists])
        best = listed[np.lexsort((listed, -products[i, listed]))][:count]
        places[i, : len(best)], scores[i, : len(best)] = best, products[i, best]
    return places, scores


@pytest.mark.parametrize("width", [1, 7, 64, 300])
@pytest.mark.parametrize("count", [1, 9, 48])
def test_it_is_the_search_written_out(width, count):
    arguments = drawn(3000, 40, 700, width, 5)
    places, scores = search(*arguments, count)
    want_places, want_scores = expected(*arguments, count)
    np.testing.assert_allclose(scores, want_scores, atol=1e-5 * width**0.5)
    assert (places.numpy() == want_places).mean() > 0.999  # float32 may turn two that nearly tie


@pytest.mark.parametrize("threads", [1, 3])
def test_ties_stand_by_rising_place_for_any_number_of_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        arguments = drawn(3000, 40, 1500, 5, 11, whole_numbers=True)
        places, scores = search(*arguments, 30)
    finally:
        torch.set_num_threads(before)
    want_places, want_scores = expected(*arguments, 30)
    np.testing.assert_array_equal(places, want_places)
    np.testing.assert_array_equal(scores, want_scores)


def test_lists_that_hold_too_few_and_queries_that_are_none():
    rows, starts, queries, probes = drawn(50, 30, 20, 8, 3)
    places, scores = search(rows, starts, queries, probes, 40)
    want_places, _ = expected(rows, starts, queries, probes, 40)
    np.testing.assert_array_equal(places, want_places)
    assert (scores[places < 0] == -torch.inf).all()
    assert search(rows, starts, queries[:0], probes[:0], 4)[0].shape == (0, 4)
    assert (search(rows[:0], starts * 0, queries, probes, 4)[0] == -1).all()


def test_scores_that_overflow_belong_to_the_queries_that_have_them():
    rows, starts, queries, probes = drawn(50, 3, 21, 8, 3)
    many, _ = search(rows, starts, queries, probes, 9)
    huge = torch.cat([torch.full((64, 8), 3e38), queries])
    every = probes[:1].expand(85, 3).contiguous()
    places, scores = search(rows.abs() + 1, starts, huge, every, 50)
    assert (scores[:64] == torch.inf).all()
    assert (places[:64].sort(dim=1).values == torch.arange(50)).all()
    assert scores[64:].isfinite().all()
    np.testing.assert_array_equal(search(rows, starts, queries, probes, 9)[0], many)


BAD = {
    "rows is not": lambda r, s, q, p: (r.double(), s, q, p),
    "starts is not": lambda r, s, q, p: (r, s.int(), q, p),
    "from 0": lambda r, s, q, p: (r, s + 1, q, p),
    "does not rise": lambda r, s, q, p: (r, torch.tensor([0, 7, 3, 50]), q, p.clamp(max=2)),
    "queries is not": lambda r, s, q, p: (r, s, q[:, :-1].contiguous(), p),
    "probes is not": lambda r, s, q, p: (r, s, q, p[:-1]),
    "p of at least 1": lambda r, s, q, p: (r, s, q, p[:, :0].contiguous()),
    "no list": lambda r, s, q, p: (r, s, q, p + 1),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_arguments_are_refused(words):
    with pytest.raises(ValueError, match=words):
        search(*BAD[words](*drawn(50, 30, 20, 8, 30)), 4)
    with pytest.raises(ValueError, match="count is not"):
        search(*drawn(50, 30, 20, 8, 3), 0)


def test_every_row_is_in_the_list_of_its_nearest_centroid():
    rows = synthetic(3000, dim=16).features
    made = inverted_lists(rows, 100, lambda ids: torch.from_numpy(rows[ids]))
    assert sorted(made.ids.tolist()) == list(range(3000))
    of = (made.rows @ made.centroids.T).argmax(1)
    assert (of == torch.bucketize(torch.arange(3000), made.starts[1:], right=True)).float().mean() > 0.999
    np.testing.assert_allclose(made.centroids.norm(dim=1), 1, atol=1e-5)
    # More lists than distinct rows: some stay empty.
    few = inverted_lists(rows[:3].repeat(5, axis=0), 15, lambda ids: torch.from_numpy(rows[:3].repeat(5, axis=0)[ids]))
    assert isinstance(few, InvertedLists)
    assert few.search(torch.from_numpy(rows[:2]), 15, 4)[1].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_ivf_is_the_same_for_any_number_of_threads_and_finds_what_it_has_to(caplog):
    features = synthetic(4000, dim=24, mean_size=9, noise=1.0).features
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with caplog.at_level("INFO", logger="intraformer_fast"):
                found.append(knn_graph(features, 15, index="ivf", device="cpu"))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    exact = knn_graph(features, 15, index="exact", device="cpu")[0]
    recall = np.mean([np.isin(a[1:], b[1:]).mean() for a, b in zip(exact, found[0][0], strict=True)])
    assert knn.RECALL - 0.02 < recall < 1
    assert "lists find 9" in caplog.text
