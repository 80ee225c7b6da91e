"""The collapse that training on the Fowlkes-Mallows loss alone runs into, and the warning that tells of it."""

import warnings

import pytest
import torch

from intraformer_fast import nn
from intraformer_fast.training import CollapseWarning, TrainingConfig, TrainingResult, train


def trained(samples, validation, bce_warmup, **changes):
    torch.manual_seed(0)
    model = nn.Intraformer(32, 16, 1, 2, 2, input_dim=7, similarity_input=True)
    settings = {"epochs": 2, "batch_size": 32, "learning_rate": 5e-3, "precision": "fp32", **changes}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(
            model,
            samples.features,
            samples.labels,
            samples.neighbors,
            config=TrainingConfig(bce_warmup=bce_warmup, **settings),
            validation=validation,
            progress=False,
        )
    return result.history, [warning for warning in caught if issubclass(warning.category, CollapseWarning)]


@pytest.mark.parametrize("validated", [True, False])
def test_training_without_cross_entropy_collapses_and_says_so_once(many_samples, many_held_out, validated):
    history, caught = trained(many_samples, many_held_out.as_validation() if validated else None, "none")
    # The collapse itself: the same number of neighbours for every cluster, while the loss looks fine.
    assert history[-1]["positives_std"] < 0.1
    assert history[-1]["target_std"] > 2
    assert history[-1]["auc"] < history[-1]["cosine_auc"]
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "after epoch 1, the training has collapsed: the model predicts nearly the same number" in message
    assert "bce_warmup='ramp'" in message
    assert caught[0].filename == __file__
    assert all(entry["collapse"] for entry in history)


def test_the_same_training_with_the_ramp_does_not(many_samples, many_held_out):
    history, caught = trained(many_samples, many_held_out.as_validation(), "ramp")
    assert caught == []
    assert history[-1]["positives_std"] > 1
    assert history[-1]["auc"] > history[-1]["cosine_auc"] + 0.05


def test_a_training_that_never_passes_the_cosine_is_told_of_at_its_end(samples, held_out):
    history, caught = trained(samples, held_out.as_validation(), "ramp", epochs=2, learning_rate=1e-6)
    assert [bool(entry["collapse"]) for entry in history] == [False, True]
    assert len(caught) == 1
    assert "after epoch 2, the model ranks edges no better than the plain cosine does" in str(caught[0].message)


def test_a_result_says_what_looked_like_a_collapse_last():
    history = [{"collapse": sentence} for sentence in (None, "first", "last", None)]
    assert TrainingResult(history, 1, None).collapse == "last"
    assert TrainingResult([*history[:1], {}], 1, None).collapse is None
