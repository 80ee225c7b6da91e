"""A small synthetic data set, made so that a trained model beats the cosine on identities it has never seen."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from intraformer_fast import nn
from intraformer_fast.training import ValidationSet


@dataclass
class Samples:
    features: np.ndarray
    labels: np.ndarray
    neighbors: np.ndarray

    def as_validation(self):
        return ValidationSet(self.features, self.labels, self.neighbors, np.arange(len(self.labels)))


def make_samples(identities, *, n=16, signal=6, seed=0):
    """Identities of 3 to 13 samples: `signal` columns that tell, and one large column that only misleads the cosine."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(identities), rng.integers(3, 14, identities))
    center = rng.normal(size=(identities, signal))
    telling = center[labels] + 0.35 * rng.normal(size=(len(labels), signal))
    features = np.hstack([telling, 2.0 * rng.normal(size=(len(labels), 1))])
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    similarity = features @ features.T
    np.fill_diagonal(similarity, 2.0)
    return Samples(features, labels, np.argsort(-similarity, axis=1, kind="stable")[:, :n])


def make_model(seed=0, **overrides):
    """The smallest model that still has every part of the paper's; features are 7 wide."""
    torch.manual_seed(seed)
    sizes = {"embed_dim": 8, "num_neighbors": 16, "num_subclusters": 2, "num_layers": 1, "num_heads": 2, "input_dim": 7}
    return nn.Intraformer(**{**sizes, **overrides})


@pytest.fixture(scope="session")
def samples():
    """About 100 samples of 12 identities."""
    return make_samples(12)


@pytest.fixture(scope="session")
def held_out():
    """About 50 samples of 6 other identities."""
    return make_samples(6, seed=1)


@pytest.fixture(scope="session")
def many_samples():
    """About 2,500 samples of 300 identities."""
    return make_samples(300)


@pytest.fixture(scope="session")
def many_held_out():
    """About 500 samples of 60 other identities."""
    return make_samples(60, seed=1)


@pytest.fixture
def new_model():
    """Makes a small model: `new_model(seed, **overrides)`."""
    return make_model


@pytest.fixture(autouse=True)
def always_one_thread(one_thread):
    """Matrices this small are slower on several threads."""
