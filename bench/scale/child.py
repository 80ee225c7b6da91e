"""One clustering in a process of its own: `child.py FOLDER SAMPLES MEAN_SIZE CASCADE`; JSON on standard output."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intraformer_fast import metrics
from intraformer_fast.data import synthetic
from intraformer_fast.graph import edge_floor, knn_shards
from intraformer_fast.pipeline import load_fitted
from intraformer_fast.streaming import flops_share, predict_edges, read_edges

STATUS = Path("/proc/self/status")
LOOK_EVERY = 0.02


class Watch:
    """The most anonymous memory seen, in bytes: what the system cannot take back, as it can mapped files."""

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._done.wait(LOOK_EVERY):
            self.most = max(self.most, kibibytes("RssAnon") * 1024)


def kibibytes(field: str) -> int:
    """A field of this process's status; 0 where the system has none."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def main(folder: Path, samples: int, mean_size: float, cascade: float) -> dict[str, Any]:
    """Make the data and cluster them; seconds of each stage, peaks in bytes, scores."""
    model, linking = load_fitted(folder / "model" / "model.safetensors")
    started = time.perf_counter()
    data = synthetic(samples, dim=model.input_dim, seed=1, mean_size=mean_size, folder=folder / "data")
    data_seconds = time.perf_counter() - started
    watch, seconds = Watch(), {}

    def timed(stage: str, since: float) -> float:
        now = time.perf_counter()
        seconds[stage] = now - since
        return now

    clock = time.perf_counter()
    graph = knn_shards(data.features, model.num_neighbors, folder / "graph", progress=False)
    clock = timed("neighbors", clock)
    floor = edge_floor(linking.rule, linking.threshold, linking.options)
    shards = predict_edges(model, graph, folder / "edges", floor=floor, cascade=cascade, progress=False)
    clock = timed("prediction", clock)
    labels = linking.link_edges(read_edges(shards, floor))
    timed("linking", clock)
    streams = np.concatenate([shards.read(i)[4] for i in range(len(shards))])
    return {
        "samples": samples,
        "mean_size": mean_size,
        "data": data_seconds,
        **seconds,
        "seconds": sum(seconds.values()),
        "anonymous_bytes": watch.most,
        "resident_bytes": kibibytes("VmHWM") * 1024,
        "index": graph.search["index"],
        "recall": graph.search["recall"],
        "flops_share": flops_share(model, streams, model.num_neighbors),
        "pairwise_f": metrics.pairwise_f(data.labels, labels),
        "clusters": int(labels.max()) + 1,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))))
