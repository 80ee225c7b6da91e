"""Which kernel serves each op of a model, and why not the others."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from intraformer_fast.ops import routing
from intraformer_fast.ops.measured import Candidates

NAMES = {"reference": "reference (plain PyTorch)"}


@dataclass(frozen=True)
class Choice:
    """What one op of a model came to.

    Attributes:
        op: its name.
        inputs: dtypes and shapes of its tensors, the first of them.
        served: the backend that serves it: "triton", "cuda", "cpu" or "reference" (plain PyTorch).
        others: (backend, why not it) for every other one that has the op.
    """

    op: str
    inputs: str
    served: str
    others: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.op}({self.inputs}): {NAMES.get(self.served, self.served)}"]
            + [f"    not {name}: {why}" for name, why in self.others]
        )


@dataclass(frozen=True)
class Explanation:
    """The choices of one call of a model, and how often each was made."""

    device: str
    choices: tuple[tuple[Choice, int], ...]

    def __str__(self) -> str:
        if not self.choices:
            return f"on {self.device}: no op of this library was called (intraformer_fast.accelerate swaps layers for its own)"
        return "\n".join([f"on {self.device}:", *(f"{count} x {choice}" for choice, count in self.choices)])


def explain(model: Callable[..., Any], *inputs: Any, device: str | None = None, **options: Any) -> Explanation:
    """Call a model once and tell which backend serves each op of this library in it, with the reasons against the others.

    The choices are those of the moment: gradients, autocast and the model's mode count, so explain training as you train and inference
    under `torch.inference_mode()`.

    Args:
        model: a module, or with `device=None` any callable.
        inputs, options: what to call it with.
        device: "cuda", to be told of a GPU, which need not exist: a module then runs on fake tensors, which have shapes and no numbers,
            and nothing is compiled. None calls the model as it is.

    Returns:
        What to `print`.

    Raises:
        TypeError, ValueError: `device` is given and `model` is no module, or it is another one. What the model raises.
    """
    if device not in (None, "cuda"):
        raise ValueError(f"device = {device!r}: expected 'cuda', or None for where the inputs are")
    if device and not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: expected a torch.nn.Module, whose parameters can be faked")
    found: Counter[Choice] = Counter()
    with _recording(found, device), _faked(model, inputs, options) if device else contextlib.nullcontext() as fake:
        fake() if fake else model(*inputs, **options)
    tensors = [leaf for leaf in pytree.tree_leaves((inputs, options)) if isinstance(leaf, Tensor)]
    where = f"{device} (by fake tensors)" if device else tensors[0].device.type if tensors else "cpu"
    return Explanation(where, tuple(found.items()))


@contextlib.contextmanager
def _recording(found: Counter[Choice], device: str | None) -> Iterator[None]:
    """Counts this thread's choices; on a device that the tensors are not on, also makes them."""
    before, thread = routing.chooser, threading.get_ident()

    def choose(
        op: str, arguments: tuple[Any, ...], backend: str, refused: Sequence[str], candidates: Candidates | None
    ) -> str:
        if threading.get_ident() != thread:
            return before(op, arguments, backend, refused, candidates)
        if device:
            arguments = pytree.tree_map_only(Tensor, lambda t: _empty_like(t, device), arguments)
            served = routing.choose(op, arguments, backend, refused)
        else:
            served = before(op, arguments, backend, refused, candidates)
        found[_choice(op, arguments, backend, refused, served)] += 1
        return served

    routing.chooser = choose
    try:
        yield
    finally:
        routing.chooser = before


@contextlib.contextmanager
def _faked(model: Any, inputs: Any, options: Any) -> Iterator[Callable[[], object]]:
    """The call of a model on fake tensors. They are the CPU's: a torch without CUDA computes no shapes of others."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _empty_like(t) for name, t in (*model.named_parameters(), *model.named_buffers())}
        arguments = pytree.tree_map_only(Tensor, _empty_like, (inputs, options))
        yield lambda: torch.func.functional_call(model, state, *arguments)


def _empty_like(tensor: Tensor, device: str = "cpu") -> Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return empty.requires_grad_(tensor.requires_grad)


def _choice(op: str, arguments: tuple[Any, ...], backend: str, refused: Sequence[str], served: str) -> Choice:
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    inputs = f"{str(tensors[0].dtype).removeprefix('torch.')}{list(tensors[0].shape)}" if tensors else ""

    def why_not(name: str) -> str:
        if backend != "auto":
            return f"backend={backend!r} was named"
        reasons = refused or routing.not_supported_reasons(op, name, *arguments)
        reasons = reasons or routing.slower_reasons(op, name, *arguments)
        return "; ".join(reasons) or f"{served} comes first, by the table or as measured here"

    others = tuple((name, why_not(name)) for name in routing.IMPLEMENTATIONS[op] if name not in (served, "reference"))
    return Choice(op, inputs, served, others)
