"""The settings of a training: defaults, refusals, learning rate."""

import json
import math
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest

from intraformer_fast.training import TrainingConfig


def test_the_defaults_are_the_papers():
    config = TrainingConfig()
    assert (config.epochs, config.learning_rate, config.weight_decay, config.bce_warmup) == (10, 1e-4, 0.0, "ramp")
    assert (config.fairness_weight, config.fairness_point) == (1.0, "mean")
    assert TrainingConfig.from_preset("paper") == config


def test_presets_can_be_overridden():
    config = TrainingConfig.from_preset("small", epochs=2)
    assert (config.epochs, config.learning_rate) == (2, 1e-3)
    with pytest.raises(ValueError, match="preset 'huge' does not exist"):
        TrainingConfig.from_preset("huge")
    with pytest.raises(TypeError, match="'epoch'"):
        TrainingConfig.from_preset("small", epoch=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("gradient_clip", 0.0),
        ("gradient_clip", math.inf),
        ("warmup_steps", -1),
        ("precision", "fp64"),
        ("seed", -1),
        ("seed", 2**63),
        ("accuracy_loss", "mse"),
        ("bce_warmup", "later"),
        ("warmup_end", 0.0),
        ("bound", "loose"),
        ("fairness_weight", -1.0),
        ("fairness_warmup", 1.0),
        ("fairness_point", "mode"),
        ("fairness_point", 1.0),
        ("checkpoint_every", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 2.5), ("batch_size", "64"), ("seed", None), ("learning_rate", "fast"), ("weight_decay", None)],
)
def test_values_that_are_no_numbers_are_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"{name} = "):
        TrainingConfig(**{name: value})


def test_numbers_of_numpy_become_plain_so_that_files_can_hold_them():
    config = TrainingConfig(epochs=np.int64(3), learning_rate=np.float32(0.5), gradient_clip=2)
    assert json.loads(json.dumps(asdict(config)))["epochs"] == 3
    assert type(config.learning_rate) is float
    assert TrainingConfig(learning_rate=1) == TrainingConfig(learning_rate=1.0)


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().epochs = 3


def test_learning_rate_rises_linearly_and_falls_along_a_cosine_to_zero():
    config = TrainingConfig(learning_rate=2.0, warmup_steps=10)
    rates = [config.learning_rate_at(step, 1000) for step in range(1000)]
    for step in (0, 4, 9, 10, 500, 999):
        expected = 2.0 * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / 1000)) / 2
        assert rates[step] == pytest.approx(expected)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[500] == pytest.approx(1.0)
    assert 0 < rates[-1] < 1e-4


def test_warmup_takes_at_most_a_tenth_of_a_short_training():
    config = TrainingConfig(learning_rate=1.0, warmup_steps=100)
    assert config.learning_rate_at(1, 20) > 0.97
    assert TrainingConfig(learning_rate=1.0, warmup_steps=0).learning_rate_at(0, 1000) == 1.0
