"""How the time of a neighbour search grows with the set."""

from dataclasses import dataclass

from intraformer_fast.graph.engines import ivf_lists
from intraformer_fast.graph.knn import FEWEST_PROBES

PROBED = 1 / 32
"""Share of the lists that IVF is taken to look into. How many it does is found by measuring what it misses, on the set itself."""


def comparisons(index: str, samples: int) -> float:
    """Rows that one sample of so many is compared with.

    An exact search compares with everybody; IVF with the centers of all lists, and with the rows of the lists that it looks into.
    """
    if index == "exact":
        return samples
    lists = ivf_lists(samples)
    return lists + samples * min(max(FEWEST_PROBES, int(PROBED * lists)), lists) / lists


@dataclass(frozen=True)
class SearchCost:
    """Seconds of a search: some a sample (its candidates scored anew, and written), and some a comparison."""

    per_sample: float
    per_comparison: float

    @classmethod
    def of_exact(cls, samples: int, seconds: float, half_seconds: float) -> "SearchCost":
        """From exact searches among `samples`, and among half of them. Neither part is negative, whatever the clock said."""
        per_sample = (4 * half_seconds - seconds) / samples
        if per_sample <= 0:
            return cls(0.0, seconds / samples**2)
        rest = max(0.0, seconds - per_sample * samples)
        return cls(min(per_sample, seconds / samples), rest / samples**2)

    def seconds(self, index: str, samples: int) -> float:
        """Of a search among so many."""
        return samples * (self.per_sample + self.per_comparison * comparisons(index, samples))
