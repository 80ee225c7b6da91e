"""IntraformerClusterer in a scikit-learn pipeline: learn from labelled samples, cluster, and give new samples to the clusters.

pip install 'intraformer-fast[sklearn]'
python examples/sklearn_pipeline.py
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

import intraformer_fast as ifast


def first(dataset: ifast.data.Dataset, identities: int) -> ifast.data.Dataset:
    return dataset.subset(np.isin(dataset.labels, np.unique(dataset.labels)[:identities]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a size for tests")
    small = parser.parse_args(arguments).small
    size = {"embed_dim": 32, "num_layers": 1, "num_neighbors": 16} if small else {}

    known = first(ifast.data.load_example("glyphs", "train"), 8 if small else 120)
    learner = ifast.IntraformerClusterer(model_options=size, training_options={"epochs": 1 if small else 3})
    make_pipeline(Normalizer(), learner).fit(known.features, known.labels)
    print(f"learnt from {len(known)} samples; linking: {learner.linking_}")

    # Other identities: the trained model clusters them without labels. Every sixth sample comes later.
    new = first(ifast.data.load_example("glyphs", "test"), 8 if small else 120)
    late = np.arange(len(new)) % 6 == 0
    clusterer = ifast.IntraformerClusterer(learner.model_, rule=learner.linking_.rule)
    whole = make_pipeline(Normalizer(), clusterer)
    start = time.perf_counter()
    labels = whole.fit_predict(new.features[~late])
    clustered = time.perf_counter()
    given = whole.predict(new.features[late])
    took = time.perf_counter() - clustered
    print(f"pairwise F of the clusters: {100 * ifast.metrics.pairwise_f(new.labels[~late], labels):.1f}")
    print(
        f"pairwise F with those that came later: {100 * ifast.metrics.pairwise_f(new.labels, merge(late, labels, given)):.1f}"
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clusterer.safetensors"
        clusterer.save(path)
        same = (
            ifast.IntraformerClusterer.load(path).predict(Normalizer().transform(new.features[late])) == given
        ).all()
    assert same
    print("parity: the loaded clusterer gives every sample the same cluster")
    print(
        f"speed: {len(labels) / (clustered - start):.0f} samples a second clustered, "
        f"{len(given) / took:.0f} a second given to the clusters"
    )


def merge(late: np.ndarray, labels: np.ndarray, given: np.ndarray) -> np.ndarray:
    merged = np.empty(len(late), np.int64)
    merged[~late], merged[late] = labels, given
    return merged


if __name__ == "__main__":
    main()
