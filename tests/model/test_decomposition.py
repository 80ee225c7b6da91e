import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intraformer_fast.reference import subcluster_bounds


@given(st.integers(0, 300), st.integers(1, 40))
def test_runs_are_those_of_array_split(n, k):
    expected = [len(part) for part in np.array_split(np.arange(n), k)]
    bounds = subcluster_bounds(n, k)
    assert [stop - start for start, stop in bounds] == expected
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == n


@pytest.mark.parametrize(("n", "k"), [(-1, 2), (4, 0)])
def test_impossible_divisions_are_refused(n, k):
    with pytest.raises(ValueError, match="expected at least 0 tokens and 1 sub-cluster"):
        subcluster_bounds(n, k)
