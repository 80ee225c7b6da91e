"""Choosing the linking rule and its thresholds on identities that the model never saw, by what the labels say there.

Groups play no part in it: a linking is chosen for its accuracy alone, as it would be where nobody has the groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from intraformer_fast import graph, metrics
from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.graph.communities import edge_weights, partition
from intraformer_fast.graph.table import neighbor_table


@dataclass(frozen=True)
class Linking:
    """A linking rule with its settings, good for sets of any size.

    Attributes:
        rule: a name out of `graph.LINK_RULES`. "intimacy" by default: it needs no optional package.
        threshold: an edge is kept when its probability (for communities: its weight) is greater. 0.5.
        options: of the rule, but for `resolution`.
        resolution_per_thousand: of the rule "communities", for every thousand samples. Modularity weighs an edge against the
            total weight of the graph, so that the same cut between two clusters needs a resolution that grows with the set.
    """

    rule: str = "intimacy"
    threshold: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)
    resolution_per_thousand: float | None = None

    def link(
        self, neighbors: npt.NDArray[Any], similarity: npt.NDArray[Any], probability: npt.NDArray[Any]
    ) -> npt.NDArray[np.int64]:
        """Labels int64 [N] of the arrays [N, n]; see `graph.link`."""
        options = dict(self.options)
        if self.resolution_per_thousand is not None:
            options["resolution"] = self.resolution(len(neighbors))
        return graph.link(neighbors, similarity, probability, rule=self.rule, threshold=self.threshold, **options)

    def link_edges(self, edges: graph.SparseEdges) -> npt.NDArray[np.int64]:
        """Labels int64 [N] of the edges that a model keeps; see `graph.link_edges`."""
        options = dict(self.options)
        if self.resolution_per_thousand is not None:
            options["resolution"] = self.resolution(len(edges))
        return graph.link_edges(edges, rule=self.rule, threshold=self.threshold, **options)

    def resolution(self, num_samples: int) -> float:
        """The resolution of a set of that size."""
        assert self.resolution_per_thousand is not None
        return self.resolution_per_thousand * num_samples / 1000

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `Linking(**values)` is the way back."""
        return {**asdict(self), "options": dict(self.options)}

    def __str__(self) -> str:
        settings = {"threshold": self.threshold, **self.options}
        if self.resolution_per_thousand is not None:
            settings["resolution per 1000 samples"] = self.resolution_per_thousand
        return f"{self.rule} ({', '.join(f'{name} {value}' for name, value in settings.items())})"


# Coarse on purpose: a finer grid would only fit the validation identities. Communities are those of the agreement, since the
# paper's rule merges predicted clusters that agree; the other weights of `graph.link` can be passed as candidates.
CANDIDATES = (
    *(Linking("intimacy", t, {"intimacy_threshold": r}) for t, r in product((0.5, 0.7, 0.9), (0.5, 0.6, 0.7))),
    *(Linking("mutual", t) for t in (0.5, 0.9, 0.97)),
    *(Linking("density", t) for t in (0.5, 0.8)),
    *(
        Linking("communities", t, {"symmetrize": "agreement"}, resolution_per_thousand=r)
        for t, r in product((0.4, 0.5, 0.6, 0.7), (2.0, 3.0, 4.5, 6.0))
    ),
)


@dataclass(frozen=True)
class Scored:
    """A candidate and its scores on the validation identities."""

    linking: Linking
    pairwise_f: float
    bcubed_f: float

    @property
    def score(self) -> float:
        """What the choice goes by: the mean of the two."""
        return (self.pairwise_f + self.bcubed_f) / 2


def choose_linking(
    neighbors: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    probability: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    candidates: Sequence[Linking] = CANDIDATES,
) -> list[Scored]:
    """Score every candidate on the neighbour graph of the validation identities; the best first, of equals the one named first.

    Candidates whose optional package is not installed are left out.

    Args:
        neighbors, similarity, probability: [N, n], as `graph.link` takes them.
        labels: int64 [N], identities.
        candidates: what to choose from.

    Raises:
        ValueError: no candidate is left; or as `graph.link`.
    """
    table = neighbor_table(neighbors, similarity, probability)
    # The weights cost far more than a partition of them, and all candidates of one kind share them.
    weights: dict[str, Any] = {}
    scored = []
    for linking in candidates:
        try:
            if linking.resolution_per_thousand is None:
                found = linking.link(neighbors, similarity, probability)
            else:
                kind = linking.options["symmetrize"]
                if kind not in weights:
                    weights = {kind: edge_weights(table, kind)}
                resolution = linking.resolution(len(table))
                found = partition(weights[kind], linking.threshold, resolution=resolution)
        except MissingDependencyError:
            continue
        scores = metrics.scores(labels, found)
        scored.append(Scored(linking, scores.pairwise_f, scores.bcubed_f))
    if not scored:
        raise ValueError("no candidate can be tried: each needs an optional package that is not installed")
    return sorted(scored, key=lambda one: -one.score)
