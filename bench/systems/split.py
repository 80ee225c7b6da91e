"""The data of a comparison: identities to learn from, others to cluster, and the groups of these."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from intraformer_fast.data import EXAMPLES, Dataset, load_example, read_features, read_labels, read_neighbors
from intraformer_fast.data.checks import check_same_length
from intraformer_fast.data.normalize import unit_rows
from intraformer_fast.errors import DataError
from intraformer_fast.pipeline import NeighborGraph, neighbor_graph

LEARN_TO_CLUSTER = "learn-to-cluster"


@dataclass(frozen=True)
class Split:
    """What is known, and what is to be clustered.

    Attributes:
        known: to train and to choose on.
        target: to cluster, with groups.
        graph_file: the neighbours of `target`, where they came with the data.
    """

    known: Dataset
    target: Dataset
    graph_file: Path | None = None

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """Of `target`."""
        assert self.target.groups is not None
        return self.target.groups

    def target_graph(self, width: int) -> NeighborGraph:
        """Of the samples to cluster, `width` neighbours each, the sample itself first.

        Raises:
            DataError: the file that came with the data does not suit.
        """
        features, labels = self.target.features, self.target.labels
        if self.graph_file is None:
            return neighbor_graph(features, labels, width)
        neighbors, similarity = read_neighbors(self.graph_file)
        check_same_length(features=features, neighbors=neighbors)
        if neighbors.shape[1] < width or not (neighbors[:, 0] == np.arange(len(neighbors))).all():
            raise DataError(
                f"{self.graph_file} has {neighbors.shape[1]} neighbours a sample, and expected were {width} or more with every "
                "sample first among its own: remove the file, and the graph is built"
            )
        return NeighborGraph(features, labels, neighbors[:, :width], similarity[:, :width])


def load(data: str, root: Path | None = None, classes: int | None = None) -> Split:
    """An example; a folder of `{train,test}_{features,labels}.npy` and `test_groups.npy`; or learn-to-cluster's files under `root`.

    Args:
        data: the name of a packaged example, "learn-to-cluster", or a folder.
        root: of learn-to-cluster's files: `features/*.bin`, `labels/*.meta`, `knns/*/*.npz` (optional) and `groups/*.meta`
            (optional, one integer a sample), one name with "train" in it and one with "test" in each.
        classes: about as many identities of each part, spread over all. None takes all.

    Raises:
        ValueError: no such data, or `root` without its name. FileNotFoundError: a file is not there. DataError: one is damaged.
    """
    if (root is not None) != (data == LEARN_TO_CLUSTER):
        raise ValueError(f"--root and --data {LEARN_TO_CLUSTER} belong together: give both or neither")
    if data in EXAMPLES:
        split = Split(load_example(data, "train"), load_example(data, "test"))
    elif root is not None:
        split = _learn_to_cluster(root)
    elif (folder := Path(data)).is_dir():
        split = Split(_folder(folder, "train"), _folder(folder, "test"))
    else:
        raise ValueError(f"data = {data!r}: expected {', '.join(EXAMPLES)}, {LEARN_TO_CLUSTER} or a folder")
    if classes is None:
        return split
    return Split(_thinned(split.known, classes), _thinned(split.target, classes))


def _thinned(part: Dataset, classes: int) -> Dataset:
    identities = np.unique(part.labels)
    chosen = identities[np.linspace(0, len(identities) - 1, min(classes, len(identities))).astype(int)]
    return part.subset(np.isin(part.labels, chosen))


def _dataset(
    name: str, features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], groups_file: Path
) -> Dataset:
    groups = read_labels(groups_file) if groups_file.exists() else np.zeros(len(labels), np.int64)
    named = groups_file.with_name("names.txt")
    if not groups_file.exists():
        names: tuple[str, ...] = ("all",)
    elif named.exists():
        names = tuple(named.read_text(encoding="utf-8").splitlines())
    else:
        names = tuple(map(str, range(int(groups.max()) + 1)))
    return Dataset(name, unit_rows(features), labels, groups, names)


def _folder(folder: Path, part: str) -> Dataset:
    features, labels = read_features(folder / f"{part}_features.npy"), read_labels(folder / f"{part}_labels.npy")
    return _dataset(folder.name, features, labels, folder / f"{part}_groups.npy")


def _learn_to_cluster(root: Path) -> Split:
    parts = {}
    for kind in ("train", "test"):
        found = sorted((root / "labels").glob(f"*{kind}*.meta"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise DataError(f"{root / 'labels'} has {names} with {kind!r} in the name: expected exactly one .meta file")
        name = found[0].stem
        labels = read_labels(found[0])
        file = root / "features" / f"{name}.bin"
        width, rest = divmod(file.stat().st_size, 4 * len(labels))
        if rest or not width:
            raise DataError(f"{file} is no table of float32 with the {len(labels)} rows that {found[0]} has labels for")
        parts[kind] = _dataset(name, read_features(file, dim=width), labels, root / "groups" / f"{name}.meta")
    graphs = sorted((root / "knns" / parts["test"].name).glob("*.npz"))
    return Split(parts["train"], parts["test"], graphs[0] if graphs else None)
