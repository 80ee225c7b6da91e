"""What one fit of one system gave, in a file of its own as soon as it is there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intraformer_fast.files import read_json, write_json
from intraformer_fast.metrics import FairnessReport

METRICS = {"pairwise_f": "F_P", "bcubed_f": "F_B", "nmi": "NMI"}
ALL = "all"
"""The name, beside those of the groups, of the score over all samples."""


@dataclass(frozen=True)
class Outcome:
    """One system, one seed.

    Attributes:
        name: of the system in the catalogue.
        seed: of the split of the known identities and of everything random.
        identity: what the result depends on, in plain values: of other data or settings a stored outcome is not taken.
        failure: why there is no result; empty where there is one.
        scores: by metric ("F_P") and group, and ALL.
        clusters: found among all samples.
        train_seconds, cluster_seconds: wall time of the fit, choices included, and of the clustering from the k-NN graph.
        cpu_seconds: of the processor, for both; on a busy machine the wall clock says little.
        chosen, notes, figures: see `Fitted`.
        threads: of torch.
    """

    name: str
    seed: int
    identity: Mapping[str, Any]
    failure: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    clusters: int = 0
    train_seconds: float = 0.0
    cluster_seconds: float = 0.0
    cpu_seconds: float = 0.0
    chosen: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    threads: int = 0

    def write(self, folder: Path) -> None:
        """To its own file in the folder."""
        write_json(_file(folder, self.name, self.seed), asdict(self))


def stored(folder: Path | None, name: str, seed: int, identity: Mapping[str, Any]) -> Outcome | None:
    """The outcome of an earlier run with the same identity, or None.

    Raises:
        DataError: its file is damaged.
    """
    if folder is None or not (file := _file(folder, name, seed)).exists():
        return None
    found = Outcome(**read_json(file))
    return found if found.identity == identity else None


def _file(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}-{seed}.json"


def scores_of(report: FairnessReport) -> dict[str, dict[str, float]]:
    """The scores of a report as `Outcome` keeps them."""
    parts = {**report.groups, ALL: report.overall}
    return {
        heading: {name: getattr(part, metric) for name, part in parts.items()} for metric, heading in METRICS.items()
    }
