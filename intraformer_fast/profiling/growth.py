"""How the time of a neighbour search grows with the set: by the rows that each sample is compared with."""

from intraformer_fast.graph.engines import IVF_PROBES, ivf_lists


def comparisons(index: str, samples: int) -> float:
    """Rows that one sample of so many is compared with.

    An exact search compares with everybody; IVF with the centers of all lists, and with the rows of the lists that it looks into.
    """
    if index == "exact":
        return samples
    lists = ivf_lists(samples)
    return lists + samples * min(max(IVF_PROBES, lists // 32), lists) / lists


def search_growth(index: str, measured: int, total: int, measured_index: str = "exact") -> float:
    """How many times longer searching `total` samples by `index` takes than what was measured, of fewer, by another index perhaps."""
    return total * comparisons(index, total) / (measured * comparisons(measured_index, measured))
