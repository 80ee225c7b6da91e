"""Triton kernels without a GPU: every launch is executed on the CPU by ttsem, which raises on an access out of bounds, on a race
between programs and on an undefined result, and fills fresh memory with NaN. Where there is a GPU they run there instead."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

HAS_GPU = torch.cuda.is_available()


def pytest_itemcollected(item: pytest.Item) -> None:
    if HAS_GPU:
        item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Where tensors have to be for launches to run."""
    if HAS_GPU:
        yield torch.device("cuda")
        return
    from ttsem.sanitize import session

    # As on compute capability 8.0, whose tables have the smallest tiles: the least to execute.
    with leaving_torch_as_it_was(), session(cc=80) as state:
        yield torch.device("cpu")
    assert state.races_unchecked == 0, "a launch was too large to be checked for races: make the test smaller"


@contextlib.contextmanager
def leaving_torch_as_it_was() -> Iterator[None]:
    """What is asked of torch.cuda is answered as by the GPU that is simulated, and would be for all later tests."""
    before = dict(vars(torch.cuda))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch.cuda, name, value)


@pytest.fixture(autouse=True)
def seed() -> None:
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")
