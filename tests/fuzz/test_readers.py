"""Every reader of files, given files that a few random bytes were changed in: an answer, or one of the errors it documents.

`HYPOTHESIS_PROFILE=long pytest tests/fuzz` goes on for ten minutes. What it finds becomes an `@example` here.
"""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from intraformer_fast import data, nn
from intraformer_fast.checkpoint import load_model, save_model
from intraformer_fast.errors import DataError
from intraformer_fast.shards import Shards, open_shards

PROFILES = {"short": settings(max_examples=120, derandomize=True), "long": settings(max_examples=20_000)}
PROFILE = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "short")]

LARGEST = 2**24
"""Bytes that an answer may take: the files are of a few KB."""


def features_file(path):
    data.write_features(path, np.random.default_rng(0).standard_normal((7, 5), np.float32))


def labels_file(path):
    data.write_labels(path, np.arange(9) % 4)


def neighbors_file(path):
    neighbors = (np.arange(6)[:, None] + np.arange(3)) % 6
    data.write_neighbors(path, neighbors, np.linspace(1, 0.5, 18, dtype=np.float32).reshape(6, 3))


def model_file(path):
    torch.manual_seed(0)
    save_model(path, nn.Intraformer(16, 4, 2, 1, 2), {"linking": {"rule": "mutual"}})


def read_model(path):
    return tuple(tensor.numpy() for tensor in load_model(path)[0].state_dict().values())


READERS = {
    "features.npy": (features_file, data.read_features),
    "features.bin": (features_file, lambda path: data.read_features(path, dim=5)),
    "features.parquet": (features_file, data.read_features),
    "labels.npy": (labels_file, data.read_labels),
    "labels.meta": (labels_file, data.read_labels),
    "neighbors.npz": (neighbors_file, data.read_neighbors),
    "model.safetensors": (model_file, read_model),
}


@st.composite
def damage(draw):
    """Changes to a file: (what, where from 0 to 1, bytes)."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["overwrite", "insert", "delete", "truncate"]),
                st.floats(0, 1),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )


def damaged(content, changes):
    for what, where, put in changes:
        at = round(where * len(content))
        if what == "overwrite":
            content = content[:at] + put + content[at + len(put) :]
        elif what == "insert":
            content = content[:at] + put + content[at:]
        elif what == "delete":
            content = content[:at] + content[at + len(put) :]
        else:
            content = content[:at]
    return content


def outcome(read, error):
    """(what was read, None), or (None, the words of the error)."""
    try:
        return read(), None
    except error as raised:
        return None, str(raised)


@pytest.mark.parametrize("name", READERS)
@settings(PROFILE, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))
@given(changes=damage())
@example(
    changes=[("overwrite", 0.9181518614565813, b"\x1c\n")]
)  # a line break in the name of an array of neighbors.npz
def test_damaged_files(name, changes, tmp_path_factory):
    write, read = READERS[name]
    path = tmp_path_factory.getbasetemp() / f"{os.getpid()}-{name}"
    write(path)
    path.write_bytes(damaged(path.read_bytes(), changes))
    found, words = outcome(lambda: read(path), DataError)
    if words is not None:
        assert "\n" not in words
        assert path.name in words
        return
    arrays = found if isinstance(found, tuple) else (found,)
    assert sum(np.asarray(array).nbytes for array in arrays) <= LARGEST


@settings(PROFILE, suppress_health_check=list(HealthCheck))
@given(changes=damage(), file=st.sampled_from(["manifest.json", "a-00000.npy", "shard-00000.json"]))
def test_damaged_shards(changes, file, tmp_path_factory):
    """A shard that is read is what was written, whatever became of its files."""
    folder = tmp_path_factory.mktemp("shards")
    whole = np.arange(6, dtype=np.int32)

    def opened() -> Shards:
        return open_shards(folder, 6, 6, ("a",), {"what": "test"})

    opened().write(0, a=whole)
    (folder / file).write_bytes(damaged((folder / file).read_bytes(), changes))
    found, words = outcome(lambda: opened().read(0), ValueError)
    assert str(folder) in words if words is not None else np.array_equal(found[0], whole)


@pytest.mark.parametrize(
    "state",
    [
        {"config": {"embed_dim": 2**40, "num_heads": 1}},
        {"config": {"embed_dim": -16}},
        {"config": []},
        {"settings": None},
        {"config": {"num_layers": 10**9}},
    ],
)
def test_models_whose_header_asks_for_the_absurd(state, tmp_path):
    path = tmp_path / "model.safetensors"
    model_file(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["intraformer_fast"])
    for name, value in state.items():
        ours["state"][name] = ours["state"][name] | value if isinstance(value, dict) else value
    header["__metadata__"]["intraformer_fast"] = json.dumps(ours)
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(DataError, match="is damaged"):
        load_model(path)
