"""Twelve tight identities in two groups as a split, and systems that need no training."""

from dataclasses import dataclass

import numpy as np
import pytest

from intraformer_fast.bench.systems.catalog import Entry
from intraformer_fast.bench.systems.protocol import Fitted
from intraformer_fast.bench.systems.split import Split
from intraformer_fast.data import Dataset

IDENTITIES, SAMPLES, WIDTH = 12, 15, 16


def dataset(seed):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(IDENTITIES), SAMPLES)
    x = random.standard_normal((IDENTITIES, WIDTH))[labels] + 0.1 * random.standard_normal((len(labels), WIDTH))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return Dataset("tight", x, labels, labels % 2, ("even", "odd"))


@pytest.fixture
def split():
    return Split(dataset(0), dataset(1))


@dataclass(frozen=True)
class Constant:
    """Everything is one cluster, or a failure."""

    failure: str = ""

    def fit(self, train, validation, seed):
        if self.failure:
            raise RuntimeError(self.failure)
        return Fitted(lambda graph: np.zeros(len(graph.labels), np.int64), "nothing", {"seed": str(seed)})


@pytest.fixture
def constant():
    return Constant


@pytest.fixture
def entry():
    return lambda system, kind="trained", title="a system": Entry(title, kind, system, "made up")
