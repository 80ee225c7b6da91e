"""A small model and a small set for it."""

import numpy as np
import pytest
import torch

from intraformer_fast import nn
from intraformer_fast.data import synthetic
from intraformer_fast.selection import Linking

LINKING = Linking("intimacy", 0.6, {"intimacy_threshold": 0.5})


def make_model(num_subclusters=2, num_neighbors=12):
    """Untrained, but its answers fall with the cosine, from above a half to below it."""
    torch.manual_seed(0)
    model = nn.Intraformer(8, num_neighbors, num_subclusters, 1, 2, input_dim=16, similarity_input=True)
    # Along one direction a token carries its cosine, along another a constant, so that the norms keep the former's size.
    telling, constant = torch.eye(8)[0] - torch.eye(8)[1], torch.eye(8)[2] - torch.eye(8)[3]
    with torch.no_grad():
        model.similarity_projection.weight.copy_(40 * telling[:, None])
        model.similarity_projection.bias.copy_(-32 * telling)
        model.rank_embedding.copy_((5 * constant).expand(num_neighbors, 8))
        model.head.weight.copy_(2 * telling[None])
    return model.eval()


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def data():
    return synthetic(3000, dim=16, mean_size=8, noise=0.6)


@pytest.fixture(autouse=True)
def always_one_thread(one_thread):
    """Matrices this small are slower on several threads."""


@pytest.fixture(scope="session")
def linking():
    return LINKING


@pytest.fixture(scope="session")
def features_file(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "features.npy"
    np.save(path, data.features)
    return path
