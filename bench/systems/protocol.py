"""What a system of the comparison is, and how its settings are chosen."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from intraformer_fast import metrics
from intraformer_fast.pipeline import NeighborGraph

Labels = npt.NDArray[np.int64]
Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Fitted:
    """A system that is ready to cluster.

    Attributes:
        cluster: labels int64 [N] of a neighbour graph; -1 is noise. The graph's own labels come in random order: they say how
            many identities there are, which only k-means looks at.
        chosen: what the validation identities decided, in words.
        notes: what else there is to say of this fit, by name.
        figures: numbers of this fit that tables average over seeds, by name.
    """

    cluster: Callable[[NeighborGraph], Labels]
    chosen: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


class System(Protocol):
    """The hyper-parameters of a system, as a dataclass. A subclass of nothing: it only has to fit."""

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        """Train on the one set of identities and choose every setting on the other; both graphs have the width of the test's."""


def choose(settings: Iterable[Setting], cluster: Callable[[Setting], Labels], validation: NeighborGraph) -> Setting:
    """The setting with the best mean of F_P and F_B on the validation identities; of equals the first."""

    def score(setting: Setting) -> float:
        found = metrics.scores(validation.labels, cluster(setting))
        return found.pairwise_f + found.bcubed_f

    return max(settings, key=score)
