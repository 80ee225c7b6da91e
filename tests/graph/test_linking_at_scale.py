"""The native intimacy rule beside the scipy one, and linking from sparse edges beside whole tables."""

import numpy as np
import pytest
import scipy.sparse
import torch

from intraformer_fast import native
from intraformer_fast.graph import SparseEdges, edge_floor, link, link_edges
from intraformer_fast.graph.linking import _in_order_of_appearance
from intraformer_fast.graph.rules import _intimate

needs_native = pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="; ".join(native.NOT_LOADED["cpu"]))


def tables(samples, n, seed, probabilities=None):
    """Random rows in crowds of 30, so that neighborhoods overlap."""
    rng = np.random.default_rng(seed)
    crowd = np.arange(samples) // 30 * 30
    neighbors = crowd[:, None] + rng.permuted(np.tile(np.arange(30), (samples, 1)), axis=1)[:, :n]
    neighbors[neighbors >= samples] = -1
    far = rng.random((samples, n)) < 0.05
    neighbors[far] = rng.integers(0, samples, far.sum())
    for row in neighbors:  # an id twice in a row is refused
        row[np.setdiff1d(np.arange(n), np.unique(row, return_index=True)[1])] = -1
    probability = rng.random((samples, n)) if probabilities is None else rng.choice(probabilities, (samples, n))
    return neighbors, np.ones((samples, n), np.float32), probability.astype(np.float32)


def sparse(neighbors, probability, floor):
    rows, columns = np.nonzero(
        (neighbors >= 0) & (neighbors != np.arange(len(neighbors))[:, None]) & (probability > floor)
    )
    arrays = (probability[rows, columns], (rows, neighbors[rows, columns]))
    kept = scipy.sparse.csr_array(arrays, shape=(len(neighbors),) * 2)
    kept.sort_indices()
    return SparseEdges(kept, floor)


@needs_native
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 0.65, 1])
def test_the_native_rule_is_the_scipy_one(threshold, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(3):
            neighbors, similarity, probability = tables(5000, 12, seed)
            expected = _intimate(sparse(neighbors, probability, 0.4).probability, threshold)
            found = link(neighbors, similarity, probability, threshold=0.4, intimacy_threshold=threshold)
            np.testing.assert_array_equal(found, _in_order_of_appearance(expected))
    finally:
        torch.set_num_threads(before)
    assert threshold in (0, 1) or 1 < found.max() + 1 < 5000


@needs_native
@pytest.mark.parametrize("rule", ["components", "mutual"])
def test_native_components_are_the_scipy_ones(rule, monkeypatch):
    neighbors, similarity, probability = tables(5000, 6, 1)
    found = link(neighbors, similarity, probability, rule=rule, threshold=0.8)
    monkeypatch.setitem(native.NOT_LOADED, "cpu", ["taken away"])
    np.testing.assert_array_equal(found, link(neighbors, similarity, probability, rule=rule, threshold=0.8))
    assert 1 < found.max() + 1 < 5000


@needs_native
def test_a_star_of_many_and_nodes_without_edges():
    starts = torch.tensor([0, 70_000] + [70_000] * 70_001)
    star = torch.arange(1, 70_001, dtype=torch.int32)
    op = torch.ops.intraformer_fast.intimacy_components
    labels = op(starts, star, 0.5)
    assert labels[:70_001].eq(0).all()  # the ends keep nobody: the only member of each neighborhood is common
    assert labels[70_001] == 70_001
    assert op(torch.zeros(1, dtype=torch.int64), star[:0], 0.5).shape == (0,)


BAD = {
    "starts is not": lambda s, t: (s.int(), t),
    "targets is not": lambda s, t: (s, t.long()),
    "from 0": lambda s, t: (s + 1, t),
    "does not rise": lambda s, t: (torch.tensor([0, 3, 1, 3]), t),
    "not rising ids": lambda s, t: (s, t.flip(0)),
    "rising ids of nodes": lambda s, t: (s, t + 2),
    "to itself": lambda s, t: (s, t - 1),
}


@needs_native
@pytest.mark.parametrize("words", BAD)
def test_bad_graphs_are_refused_before_anything_is_read_through_them(words):
    starts, targets = torch.tensor([0, 2, 3, 3]), torch.tensor([1, 2, 2], dtype=torch.int32)
    with pytest.raises(ValueError, match=words):
        torch.ops.intraformer_fast.intimacy_components(*BAD[words](starts, targets), 0.5)
    with pytest.raises(ValueError, match=words):
        torch.ops.intraformer_fast.edge_components(*BAD[words](starts, targets), True)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("intimacy", {"intimacy_threshold": 0.3}),
        ("mutual", {}),
        ("components", {}),
        ("communities", {}),
        ("communities", {"symmetrize": "agreement"}),
    ],
)
def test_labels_of_edges_are_those_of_tables(rule, options):
    neighbors, similarity, probability = tables(600, 10, 7, [0, 0.05, 0.3, 0.5, 0.7])
    for threshold in (0.3, 0.5):
        floor = edge_floor(rule, threshold, options)
        edges = sparse(neighbors, probability, floor)
        found = link_edges(edges, rule=rule, threshold=threshold, **options)
        expected = link(neighbors, similarity, probability, rule=rule, threshold=threshold, **options)
        np.testing.assert_array_equal(found, expected)
    # Edges that were kept for a lower threshold serve a higher one.
    edges = sparse(neighbors, probability, 0.0)
    np.testing.assert_array_equal(link_edges(edges, rule=rule, threshold=0.5, **options), expected)


def test_what_edges_cannot_say_is_refused():
    edges = sparse(*tables(60, 5, 0)[::2], 0.5)
    with pytest.raises(ValueError, match="'density' needs the similarity"):
        link_edges(edges, rule="density")
    with pytest.raises(ValueError, match=r"edges of 0.5 and less were not kept"):
        link_edges(edges, threshold=0.4)
