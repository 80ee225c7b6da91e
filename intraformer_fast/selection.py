"""Choosing the linking rule and its thresholds on identities that the model never saw, by what the labels say there.

Groups play no part in it: a linking is chosen for its accuracy alone, as it would be where nobody has the groups.
"""

from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class View:
    """One neighbour graph that holds the validation identities, with the model's answers on it.

    Attributes:
        neighbors, similarity, probability: [N, n], as `graph.link` takes them.
        labels: int64 [N], identities.
        scored: bool[N], the samples of validation identities; the others are company.
    """

    neighbors: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    scored: npt.NDArray[np.bool_]


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
    """A candidate and its scores: pairwise F and BCubed F on the scored samples, the means over the views."""

    linking: Linking
    pairwise_f: float
    bcubed_f: float

    @property
    def score(self) -> float:
        """What the choice goes by: the mean of the two."""
        return (self.pairwise_f + self.bcubed_f) / 2


def choose_linking(views: Sequence[View], candidates: Sequence[Linking] = CANDIDATES) -> list[Scored]:
    """Score every candidate on every view; the best comes first, of equals the one named first.

    Candidates whose optional package is not installed are left out.

    Raises:
        ValueError: there is no view, a view scores no sample, or no candidate is left.
    """
    if not views or not all(view.scored.any() for view in views):
        raise ValueError("a linking is chosen on at least one view with at least one scored sample")
    totals: dict[int, npt.NDArray[np.float64]] = {}
    for view in views:
        for number, labels in _link_all(view, candidates):
            found = metrics.scores(view.labels[view.scored], labels[view.scored])
            f = np.array([found.pairwise_f, found.bcubed_f])
            totals[number] = totals.get(number, np.zeros(2)) + f / len(views)
    if not totals:
        raise ValueError("no candidate can be tried: each needs an optional package that is not installed")
    scored = [Scored(candidates[number], *map(float, f)) for number, f in totals.items()]
    return sorted(scored, key=lambda one: -one.score)


def _link_all(view: View, candidates: Sequence[Linking]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """The clustering of each candidate that can be tried, with its number."""
    table = neighbor_table(view.neighbors, view.similarity, view.probability)
    # The weights cost far more than a partition of them, and all candidates of one kind share them.
    weights: dict[str, Any] = {}
    for number, linking in enumerate(candidates):
        try:
            if linking.resolution_per_thousand is not None:
                kind = linking.options["symmetrize"]
                if kind not in weights:
                    weights = {kind: edge_weights(table, kind)}
                resolution = linking.resolution(len(table))
                yield number, partition(weights[kind], linking.threshold, resolution=resolution)
            else:
                yield number, linking.link(view.neighbors, view.similarity, view.probability)
        except MissingDependencyError:
            continue
