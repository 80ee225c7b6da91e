"""nn.cascade: exact at 0, stops where it should, and what it saves."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from intraformer_fast import metrics, pipeline, reference
from intraformer_fast.nn import Intraformer
from intraformer_fast.nn.cascade import cascade, stream_flops
from intraformer_fast.streaming import predict_cascade


def answer(model, x, valid, floor):
    with torch.no_grad():
        return cascade(model, x, valid, floor)


def tokens(batch, n, width=16, seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, n, width)).astype(np.float32))
    return torch.nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize("cross_query", ["member", "anchor"])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("n", [16, 13, 3])
@pytest.mark.parametrize("crosses", [False, True])
def test_a_floor_of_0_is_the_exact_answer(cross_query, share, n, crosses):
    torch.manual_seed(0)
    options = {"cross_query": cross_query, "share_cross_weights": share, "cross_attention": crosses}
    model = Intraformer(8, 16, 4, 2, 2, input_dim=16, similarity_input=True, **options).eval()
    x = tokens(9, n)
    valid = torch.ones(9, n, dtype=torch.bool)
    valid[::2, n - n // 3 :] = False
    valid[4] = False
    for mask in (None, valid):
        with torch.no_grad():
            expected = model(x, mask).sigmoid()
        found = answer(model, x, mask, 0.0)
        expected = expected if mask is None else expected.masked_fill(~mask, 0)
        torch.testing.assert_close(found.probability, expected, atol=2e-6, rtol=0)
        assert (found.streams == min(n, 4)).all()


def test_a_cluster_ends_with_the_sub_cluster_whose_tail_holds_too_few():
    torch.manual_seed(0)
    model = Intraformer(8, 32, 4, 2, 2, input_dim=16).eval()
    x = tokens(400, 32)
    with torch.no_grad():
        model.head.bias.sub_(model(x).median())  # half of the tails pass
        full = model(x).sigmoid()
    found = answer(model, x, None, 0.5)
    expected = []
    for q in full:
        # The last quarter of 8 tokens is two: one of them above the floor is not enough.
        tails = [float(q[8 * m + 6] + q[8 * m + 7]) / 2 > 0.5 for m in range(3)]
        expected.append(1 + [*tails, False].index(False))
    assert found.streams.tolist() == expected
    assert set(expected) == {1, 2, 3, 4}
    computed = torch.arange(32) < 8 * found.streams[:, None]
    torch.testing.assert_close(found.probability, full * computed, atol=2e-6, rtol=0)


@pytest.mark.parametrize("n", [4, 14])
@pytest.mark.parametrize("crosses", [False, True])
def test_work_is_that_of_the_matrix_products(n, crosses):
    model = reference.Intraformer(8, 16, 4, 2, 2, cross_attention=crosses)
    h, bounds = torch.randn(1, n, 8), reference.subcluster_bounds(n, 4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for block in model.blocks:
            h = model._block(block, h, None, bounds)
    assert counter.get_total_flops() == sum(stream_flops(model, n))


@pytest.mark.parametrize("floor", [-0.1, 1.0])
def test_floors_that_cannot_be_are_refused(floor):
    with pytest.raises(ValueError, match=f"cascade = {floor}"):
        answer(Intraformer(8, 16, 4, 1, 2), tokens(1, 16, 8), None, floor)


def test_the_chosen_floor_saves_work_and_keeps_the_score(model, data, linking):
    known = pipeline.neighbor_graph(data.features, data.labels, 12)
    chosen = pipeline.choose_cascade(model, linking, known)
    assert chosen.floor > 0
    assert abs(chosen.pairwise_f - chosen.exact_pairwise_f) <= 0.001
    assert 0.5 < chosen.flops_share < 1
    probability, share = predict_cascade(model, known.features, known.neighbors, chosen.floor)
    assert share == chosen.flops_share
    labels = linking.link(known.neighbors, known.similarity, probability)
    assert metrics.pairwise_f(data.labels, labels) == chosen.pairwise_f
    # A tolerance that nothing keeps to leaves the exact answer.
    assert pipeline.choose_cascade(model, linking, known, tolerance=-1).floor == 0
