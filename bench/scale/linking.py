"""Linking alone, of as many made-up edges as one likes: `python -m intraformer_fast.bench.scale.linking SAMPLES EDGES_EACH [RULE]`.

Groups of samples list each other, apart from a few edges that go anywhere; ids are in random order. The edges go to disk in the
shards that `streaming.predict_edges` writes, and are linked from there. JSON on standard output: seconds and the process's own
memory.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intraformer_fast.bench.scale.child import Watch
from intraformer_fast.graph import link_edges
from intraformer_fast.shards import Shards, open_shards
from intraformer_fast.streaming import ARRAYS, read_edges

SHARD_ROWS = 2**14
FAR = 4
"""Of a sample's edges, those that leave its group."""

FLOOR = 0.5


def made_up(folder: Path, samples: int, each: int) -> Shards:
    """Groups of `each` + 1, in which every sample lists all others but `FAR`."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(samples).astype(np.int32)
    shards = open_shards(folder, samples, SHARD_ROWS, ARRAYS, {"what": "made up", "each": each})
    for i in shards.missing():
        rows = np.arange(samples, dtype=np.int64)[shards.rows_of(i)]
        base = np.minimum(rows // (each + 1) * (each + 1), samples - each - 1)
        others = np.arange(each)[None] + (np.arange(each)[None] >= (rows - base)[:, None])
        targets = ids[base[:, None] + others]
        targets[:, :FAR] = rng.integers(0, samples, (len(rows), FAR))
        targets.sort(axis=1)
        kept = targets != ids[rows][:, None]
        kept[:, 1:] &= targets[:, 1:] != targets[:, :-1]
        probability = (FLOOR + (1 - FLOOR) * rng.random(targets.shape, dtype=np.float32)).clip(min=FLOOR + 1e-6)
        shards.write(
            i,
            samples=ids[rows],
            degree=kept.sum(axis=1, dtype=np.int32),
            targets=targets[kept],
            probability=probability[kept],
            streams=np.ones(len(rows), np.int8),
        )
    return shards


def main(samples: int, each: int, rule: str) -> dict[str, Any]:
    """Make the edges and link them."""
    with tempfile.TemporaryDirectory(prefix="intraformer-linking-") as folder:
        shards = made_up(Path(folder), samples, each)
        watch = Watch()
        clock = time.perf_counter()
        edges = read_edges(shards, FLOOR)
        read = time.perf_counter() - clock
        labels = link_edges(edges, rule=rule, threshold=FLOOR)
        return {
            "samples": samples,
            "edges": edges.probability.nnz,
            "rule": rule,
            "reading": read,
            "seconds": time.perf_counter() - clock,
            "anonymous_bytes": watch.most,
            "clusters": int(labels.max()) + 1,
            "groups": -(-samples // (each + 1)),
            "threads": torch.get_num_threads(),
        }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "intimacy")))
