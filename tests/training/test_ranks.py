"""A training by several processes: that of one up to rounding, gone on with after a process was killed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    script = os.path.join(os.path.dirname(__file__), "trained_by_ranks.py")
    command = [sys.executable, script, tmp_path_factory.mktemp("ranks")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "errors": done.stderr}


def test_two_processes_train_what_one_does(report):
    assert report["one"] == 0
    assert report["two"] == [0, 0]
    assert report["ranks agree"]
    assert report["from one process"] < 0.01 * report["from the start"]
    for one, two in zip(*report["histories"], strict=True):
        assert one.keys() == two.keys()
        for name in ("loss", "fmi", "bce", "fairness", "purity", "auc", "f1"):
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert report["histories"][0][-1]["fairness"] > 0.01  # which depends on the whole batch


def test_a_killed_process_fails_the_run_and_the_same_command_goes_on(report):
    killed, other = report["killed"]
    assert (killed, other) == (-9, 1)
    assert report["seconds"] < 60
    assert report["steps"] < 3
    assert report["resumed"] == [0, 0]
    assert report["resumed is unbroken"]


def test_batches_too_small_for_all_processes_are_refused(report):
    assert report["too small"] == [1, 1]
    assert "batches of 1 clusters leave some of 2 processes without one" in report["errors"]
