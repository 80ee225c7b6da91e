"""Which backend serves a call, and why (reasons in words)."""

import functools
import operator
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from intraformer_fast import reference
from intraformer_fast.ops import (
    block_attention,
    correlation_attention,
    eligibility,
    encoder_block,
    gather_block_attention,
    gather_correlation_attention,
    measured,
    purity_fmi,
    purity_fmi_means,
    stream_linear,
)

# The backends that hold an implementation of an op, fastest first. "auto" takes the first that can serve a call.
# A module other than the reference says itself what it cannot serve: `not_supported_reasons(backend, *arguments)`; and may say what it
# serves, but slower than the next one: `slower_reasons(backend, *arguments)`.
IMPLEMENTATIONS: dict[str, dict[str, ModuleType]] = {
    "block_attention": {"triton": block_attention, "cpu": block_attention, "reference": reference},
    "encoder_block": {"cpu": encoder_block, "reference": reference},
    "stream_linear": {"cpu": stream_linear, "reference": reference},
    "correlation_attention": {"triton": correlation_attention, "cpu": correlation_attention, "reference": reference},
    "gather_block_attention": {"triton": gather_block_attention, "cpu": gather_block_attention, "reference": reference},
    "gather_correlation_attention": {
        "triton": gather_correlation_attention,
        "cpu": gather_correlation_attention,
        "reference": reference,
    },
    "purity_fmi": {"cuda": purity_fmi, "cpu": purity_fmi, "reference": reference},
    "purity_fmi_means": {"cuda": purity_fmi_means, "cpu": purity_fmi_means, "reference": reference},
}


def not_supported_reasons(op: str, backend: str, *arguments: Any) -> list[str]:
    """Why `backend` cannot serve `op` on these arguments (for most ops its tensors, in order); empty where it can."""
    module = IMPLEMENTATIONS[op].get(backend)
    if module is None:
        have = ", ".join(repr(name) for name in IMPLEMENTATIONS[op])
        return [f"this version of intraformer-fast has no {backend!r} implementation of {op} (it has {have})"]
    return [] if module is reference else module.not_supported_reasons(backend, *arguments)


def slower_reasons(op: str, backend: str, *arguments: Any) -> list[str]:
    """Why `backend` would serve `op` on these arguments slower than the next backend does; empty where it would not."""
    reasons = getattr(IMPLEMENTATIONS[op][backend], "slower_reasons", None)
    return reasons(backend, *arguments) if reasons else []


def select(
    op: str,
    *arguments: Any,
    backend: str = "auto",
    refused: Sequence[str] = (),
    candidates: measured.Candidates | None = None,
) -> ModuleType:
    """The module that implements `op` on `backend` for these arguments.

    Args:
        refused: reasons of the caller's own why only the reference can serve.
        candidates: makes what is to be timed, by backend, where the choice is measured (measured.py) and the op is not called by its
            arguments alone.

    Raises:
        NotImplementedError: a named backend cannot serve the call; the message says why.
    """
    return IMPLEMENTATIONS[op][chooser(op, arguments, backend, refused, candidates)]


# Choices made before. What a choice goes by costs more to ask for again than the choice is worth to a small call.
_CHOICES: dict[tuple[Any, ...], str] = {}
# Where shapes never end, remembering begins anew.
MOST_CHOICES = 4096

_LOOKS = operator.attrgetter("__class__", "dtype", "device", "shape", "requires_grad")
_LOOKS_OF_PARAMETERS = operator.attrgetter("dtype", "device", "requires_grad", "__class__")


def remembered(
    op: str,
    arguments: tuple[Any, ...],
    backend: str,
    refused: Sequence[str],
    candidates: measured.Candidates | None = None,
) -> str:
    """As `choose`, or as measured. All that it depends on is in the key, but for what is the process's own: libraries, devices."""
    if refused or torch.compiler.is_compiling():
        return choose(op, arguments, backend, refused)
    key: list[Any] = [op, backend, torch.is_grad_enabled(), torch._C._are_functorch_transforms_active()]
    cuda = False
    for argument in arguments:
        if argument is None:
            key.append(None)
        elif argument.__class__ is list:
            key.append((frozenset(map(_LOOKS_OF_PARAMETERS, argument)), any(map(Tensor.is_inference, argument))))
        elif hasattr(argument, "is_cuda"):
            key.append(_LOOKS(argument))
            cuda = cuda or argument.is_cuda
        else:
            key.append(argument)
    if cuda:
        key.append(eligibility.multiplies_in_tf32())
    if torch._C._is_any_autocast_enabled():
        key += [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    asked = tuple(key)
    try:
        known = _CHOICES.get(asked)
    except TypeError:  # sizes that are symbols
        return choose(op, arguments, backend, ())
    if known is None:
        known = choose(op, arguments, backend, ())
        if backend == "auto" and known == "cpu" and (candidates or op in _CALLS) and measured.wanted(arguments):
            known = measured.fastest(op, arguments, known, candidates or (lambda: _calls(op, arguments)))
        if len(_CHOICES) >= MOST_CHOICES:
            _CHOICES.clear()
        _CHOICES[asked] = known
    return known


# The measured ops by the arguments of `select`.
_CALLS: dict[str, Callable[..., Any]] = {
    "block_attention": lambda module, q, k, v, valid=None, num_blocks=1: module.block_attention(
        q, k, v, num_blocks, valid=valid
    ),
    "gather_block_attention": lambda module, q, k, v, neighbors, num_blocks=1: module.gather_block_attention(
        q, k, v, neighbors, num_blocks
    ),
    "gather_correlation_attention": lambda module, *arguments: module.gather_correlation_attention(*arguments),
    # The model asks for all its streams at once; one of them stands for the others.
    "correlation_attention": lambda module, query, context, weight, valid=None: module.correlation_attention(
        query, context, weight if weight.dim() == 2 else weight[0], valid_context=valid
    ),
}


def _calls(op: str, arguments: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    """The op by its native code and by the reference, on tensors of its own; with the gradients, where they are wanted."""
    own = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments]
    leaves = [t for t in own if isinstance(t, Tensor) and t.requires_grad] if torch.is_grad_enabled() else []

    def run(module: ModuleType) -> object:
        output = _CALLS[op](module, *own)
        return torch.autograd.grad(output.sum(), leaves) if leaves else output

    return {name: functools.partial(run, IMPLEMENTATIONS[op][name]) for name in ("cpu", "reference")}


def choose(op: str, arguments: tuple[Any, ...], backend: str, refused: Sequence[str]) -> str:
    """The name of the backend that `select` returns the module of."""
    if backend == "auto":
        if refused:
            return "reference"
        device = next((a.device.type for a in arguments if isinstance(a, Tensor)), None)
        for name in IMPLEMENTATIONS[op]:
            # The reference runs anywhere.
            if eligibility.DEVICES.get(name, device) != device or not_supported_reasons(op, name, *arguments):
                continue
            if not slower_reasons(op, name, *arguments):
                return name
    reasons = refused if refused and backend != "reference" else not_supported_reasons(op, backend, *arguments)
    if reasons:
        raise NotImplementedError(f"backend {backend!r} cannot serve {op}: {'; '.join(reasons)}; use backend='auto'")
    return backend


# Who makes the choices (intraformer_fast/explanation.py puts itself in between).
chooser: Callable[[str, tuple[Any, ...], str, Sequence[str], measured.Candidates | None], str] = remembered
