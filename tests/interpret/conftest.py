"""Triton kernels without a GPU: every launch is executed on the CPU by ttsem, which raises on an access out of bounds, on a race
between programs and on an undefined result, and fills fresh memory with NaN. Where there is a GPU they run there instead."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Where tensors have to be for launches to run."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    from ttsem.sanitize import session

    with session() as state:
        yield torch.device("cpu")
    assert state.races_unchecked == 0, "a launch was too large to be checked for races: make the test smaller"


@pytest.fixture(autouse=True)
def seed() -> None:
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")
