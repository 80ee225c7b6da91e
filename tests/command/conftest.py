"""A small labelled set in files, and the command run as a person runs it."""

import contextlib
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from intraformer_fast.cli import main


def _run(*arguments, cwd=None, check=None):
    """The finished command, run in this process; with `check` its exit code is asserted."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        if cwd:
            patch.chdir(cwd)
        patch.setattr(sys, "argv", ["intraformer-fast", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    done = SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
    assert check is None or done.returncode == check, done.stderr
    return done


def _answer(*arguments):
    """What the command prints with --json."""
    return json.loads(_run(*arguments, "--json", check=0).stdout)


def _blobs(identities, samples, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(identities, width))
    labels = np.repeat(np.arange(identities), samples)
    features = centers[labels] + 0.45 * rng.normal(size=(len(labels), width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    order = rng.permutation(len(labels))
    return features[order].astype(np.float32), labels[order]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of a training set and of a test set of other identities, and a model trained on the first."""
    folder = tmp_path_factory.mktemp("files")
    paths = SimpleNamespace(folder=folder, model=folder / "run" / "model.safetensors")
    for name, seed, identities in (("train", 0, 30), ("test", 1, 20)):
        features, labels = _blobs(identities, 12, seed=seed)
        for kind, array in (("features", features), ("labels", labels), ("groups", labels % 3)):
            path = folder / f"{name}_{kind}.npy"
            np.save(path, array)
            setattr(paths, f"{name}_{kind}", path)
    paths.trained = _answer(
        "train", paths.train_features, paths.train_labels, "--output", folder / "run", "--neighbors", 16,
        "--epochs", 6, "--batch-size", 16, "--learning-rate", 0.002, "--quiet",
    )  # fmt: skip
    return paths


@pytest.fixture(scope="session")
def run():
    return _run


@pytest.fixture(scope="session")
def answer():
    return _answer


@pytest.fixture(scope="session")
def blobs():
    return _blobs
