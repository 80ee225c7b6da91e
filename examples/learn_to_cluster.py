"""The paper's model from learn-to-cluster's files: features/*.bin, labels/*.meta and knns/*.npz.

Writes such files from the example data set, as others have them of MS1M, and works from them alone.

    python examples/learn_to_cluster.py
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import intraformer_fast as ifast
from intraformer_fast import pipeline, presets, training

WIDTH = 128


def write_files(folder: Path, identities: int, n: int) -> None:
    """`train` and `test`, each with the first so many identities of the example, and graphs of n neighbours."""
    for split in ("train", "test"):
        whole = ifast.data.load_example("glyphs", split)
        chosen = whole.subset(np.isin(whole.labels, np.unique(whole.labels)[:identities]))
        ifast.data.write_features(folder / "features" / f"{split}.bin", chosen.features)
        ifast.data.write_labels(folder / "labels" / f"{split}.meta", chosen.labels)
        graph = ifast.graph.knn_graph(chosen.features, n)
        ifast.data.write_neighbors(folder / "knns" / f"{split}.npz", *graph)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a size for tests")
    small = parser.parse_args(arguments).small

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identities, n = (8, 16) if small else (100, 40)
        write_files(folder, identities, n)
        features = ifast.data.read_features(folder / "features/train.bin", dim=WIDTH)
        labels = ifast.data.read_labels(folder / "labels/train.meta")

        # The paper's form, four sub-clusters with C-ATT, at a size for a CPU.
        model = {**presets.preset("small-paper").model, "num_neighbors": n}
        model |= {"embed_dim": 32, "num_layers": 1} if small else {}
        config = training.TrainingConfig.from_preset("small-paper", epochs=1 if small else 3)
        data = pipeline.prepare(features, labels, num_neighbors=n)
        start = time.perf_counter()
        fitted = pipeline.fit(data, model, config, folder / "run", progress=not small)
        print(f"trained on {len(labels)} samples in {time.perf_counter() - start:.1f} s; linking: {fitted.linking}")

        new = ifast.data.read_features(folder / "features/test.bin", dim=WIDTH)
        graph_file = folder / "knns/test.npz"
        start = time.perf_counter()
        found = pipeline.cluster(fitted.model, fitted.linking, new, graph_file=graph_file, progress=not small)
        took = time.perf_counter() - start
        scores = ifast.metrics.scores(ifast.data.read_labels(folder / "labels/test.meta"), found)
        print(f"clustered {len(new)} new samples: F_P {100 * scores.pairwise_f:.1f}, F_B {100 * scores.bcubed_f:.1f}")

        neighbors, _ = ifast.data.read_neighbors(graph_file)
        x = torch.from_numpy(np.array(new))[torch.from_numpy(neighbors[:64])]
        eager = ifast.reference.Intraformer(**fitted.model.config).eval()
        eager.load_state_dict(fitted.model.state_dict())
        with torch.inference_mode():
            ours, theirs = fitted.model(x), eager(x)
            exact = eager.double()(x.double())
        worst, allowed = ((t - exact).abs().max().item() for t in (ours, theirs))
        assert worst <= 2 * allowed + 1e-5, (worst, allowed)
        print(f"parity: error of the logits {worst:.1e} against float64, plain PyTorch's {allowed:.1e}")
        print(f"speed: {len(new) / took:.0f} samples a second, from the graph to the clusters")


if __name__ == "__main__":
    main()
