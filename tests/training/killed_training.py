"""Run by test_resume.py in a process of its own: a training that is killed again and again, beside an unbroken one.

Each attempt is a forked child, since starting torch anew would take seconds. Usage: killed_training.py FOLDER
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from intraformer_fast import nn
from intraformer_fast.training import TrainingConfig, ValidationSet, train

INTERRUPTED = 3


def attempt(folder, before_training=lambda: None):
    """Train in a child process; its id."""
    child = os.fork()
    if child:
        return child
    try:
        before_training()
        rng = np.random.default_rng(0)
        labels = np.repeat(np.arange(20), 8)
        features = rng.normal(size=(20, 6))[labels] + rng.normal(size=(160, 6))
        features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
        neighbors = np.argsort(-(features @ features.T) - 9 * np.eye(160), axis=1, kind="stable")[:, :12]
        neighbors[::5, 7:] = -1
        torch.manual_seed(0)
        train(
            nn.Intraformer(8, 12, 2, 1, 2, input_dim=6, dropout=0.1),
            features,
            labels,
            neighbors,
            config=TrainingConfig(epochs=3, batch_size=8, learning_rate=3e-3, checkpoint_every=3),
            validation=ValidationSet(features, labels, neighbors, np.arange(0, 160, 4)),
            output_dir=folder,
            progress=False,
        )
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def outcome(child):
    """The exit status of the child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_rename(count, *, after):
    """Die at the count-th time a finished file is given its name, just before or just after."""
    genuine, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        genuine(source, target)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def main(folder):
    # A shell that starts the tests in the background has Ctrl-C ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # What torch imports late it imports here, once for all children.
    torch.optim.AdamW([torch.zeros(1)], fused=True)
    report, seconds = {"unbroken": []}, float("inf")
    # The quicker of two, so that a busy moment in one does not put the kills after the end of the others.
    for name in ("unbroken", "unbroken again"):
        started = time.monotonic()
        report["unbroken"].append(outcome(attempt(folder / name)))
        seconds = min(seconds, time.monotonic() - started)

    dice = random.Random(0)
    report["random moments"] = []
    while report["random moments"][-1:] != [0]:
        child = attempt(folder / "random moments")
        if len(report["random moments"]) < 12:
            time.sleep(dice.uniform(0.01, 0.15) * seconds)
            os.kill(child, signal.SIGKILL)
        report["random moments"].append(outcome(child))

    report["around renames"] = []
    status = None
    while status != 0:
        count, after = 1 + len(report["around renames"]) // 2, len(report["around renames"]) % 2 == 0
        status = outcome(attempt(folder / "around renames", lambda: kill_at_rename(count, after=after)))  # noqa: B023
        report["around renames"].append(status)

    report["Ctrl-C"] = []
    for _ in range(2):
        checkpoint = folder / "Ctrl-C" / "checkpoint.safetensors"
        # The time and not the inode, whose number the next file may get again.
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        child = attempt(checkpoint.parent)
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            time.sleep(0.001)
        os.kill(child, signal.SIGINT)
        report["Ctrl-C"].append(outcome(child))
    report["Ctrl-C"].append(outcome(attempt(checkpoint.parent)))
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
