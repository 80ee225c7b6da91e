"""How many kernels a piece of PyTorch launches, and how many bytes they read and write, counted on tensors without data.

An operator that is neither a view nor an allocation counts as one launch, as does a launch of Triton; each reads its tensors and writes
its results once. What a library does inside one operator (a split matrix product, a copy it makes for itself) is not seen.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from intraformer_fast.kernels.common.launches import Launch

ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty_strided")


class Traffic(NamedTuple):
    """What was counted."""

    launches: int
    bytes: int


def count(function: Callable[[], object]) -> Traffic:
    """What `function` does, on tensors of device `meta`; kernels of `kernels/` are counted and not run."""
    counter = _Counter()
    with counter, _launches_counted(counter):
        function()
    return Traffic(counter.launches, counter.bytes)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0

    def add(self, tensors: Iterable[Any]) -> None:
        self.launches += 1
        self.bytes += sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not view and func._schema.name not in ALLOCATIONS:
            written = {id(t) for t in tree_leaves((args, kwargs))}
            # A result that was given is not counted twice.
            self.add([*tree_leaves((args, kwargs)), *(t for t in tree_leaves(result) if id(t) not in written)])
        return result


@contextmanager
def _launches_counted(counter: _Counter) -> Iterator[None]:
    def counted(launch: Launch) -> None:
        tensors = {id(t): t for t in launch.arguments.values() if isinstance(t, Tensor)}
        counter.add(tensors.values())

    with mock.patch.object(Launch, "run", counted), torch.no_grad():
        yield
