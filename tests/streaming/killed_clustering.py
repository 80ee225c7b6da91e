"""Run by test_streaming.py: a clustering on disk that is killed three times, then one of two ranks, one of which dies.

Each attempt is a forked child, since starting torch anew would take seconds. Usage: killed_clustering.py FEATURES FOLDER
"""

import importlib.util
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch

from intraformer_fast import pipeline
from intraformer_fast.distributed import ranks

SHARED = importlib.util.spec_from_file_location("shared", Path(__file__).with_name("conftest.py"))
shared = importlib.util.module_from_spec(SHARED)
SHARED.loader.exec_module(shared)


def attempt(features, work, labels, rank=0, size=1, port=0, before=lambda: None):
    """Cluster in a child process; its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        before()
        with ranks() as of:
            found = pipeline.cluster_on_disk(
                shared.make_model(),
                shared.LINKING,
                features,
                work,
                index="ivf",
                precision="fp32",
                ranks=of,
                progress=False,
            )
        if found is not None:
            np.save(labels, found)
    except BaseException as error:
        print(repr(error)[:200], file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def outcome(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def die_at_rename(count):
    genuine, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        genuine(source, target)

    os.replace = replace


def main(features, folder):
    torch.set_num_threads(1)
    features = np.load(features, mmap_mode="r")
    # Many small shards, so that there is much to be killed between.
    for call, defaults in ((pipeline.graph.knn_shards, {"shard_rows": 256}),):
        call.__kwdefaults__ |= defaults
    assert outcome(attempt(features, folder / "unbroken", folder / "unbroken.npy")) == 0
    expected = np.load(folder / "unbroken.npy")

    dice = random.Random(0)
    total = len(list((folder / "unbroken").rglob("*")))
    for _ in range(3):
        count = dice.randrange(1, total // 4)
        status = outcome(attempt(features, folder / "w", folder / "w.npy", before=lambda: die_at_rename(count)))  # noqa: B023
        print("killed" if status == -signal.SIGKILL else status)
    assert outcome(attempt(features, folder / "w", folder / "w.npy")) == 0
    print("same" if np.array_equal(np.load(folder / "w.npy"), expected) else "different")

    port = free_port()
    pair = [
        attempt(
            features,
            folder / "r",
            folder / "r.npy",
            rank,
            2,
            port,
            (lambda: die_at_rename(3)) if rank else (lambda: None),
        )
        for rank in (0, 1)
    ]
    print("killed-rank" if outcome(pair[1]) == -signal.SIGKILL else "survived")
    started = time.monotonic()
    print("failed" if outcome(pair[0]) == 1 and time.monotonic() - started < 60 else "hung")
    assert not (folder / "r.npy").exists()
    port = free_port()
    pair = [attempt(features, folder / "r", folder / "r.npy", rank, 2, port) for rank in (0, 1)]
    print("resumed" if [outcome(child) for child in pair] == [0, 0] else "failed again")
    print("same" if np.array_equal(np.load(folder / "r.npy"), expected) else "different")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
