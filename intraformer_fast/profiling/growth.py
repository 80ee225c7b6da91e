"""How the time of a neighbour search grows with the set: by the rows that each sample is compared with."""

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


def search_growth(index: str, measured: int, total: int, measured_index: str = "exact") -> float:
    """How many times longer searching `total` samples by `index` takes than what was measured, of fewer, by another index perhaps."""
    return total * comparisons(index, total) / (measured * comparisons(measured_index, measured))
