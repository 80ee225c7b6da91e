"""Which backend serves a call, and why (reasons in words)."""

from types import ModuleType
from typing import Any

from torch import Tensor

from intraformer_fast import reference
from intraformer_fast.ops import (
    block_attention,
    correlation_attention,
    eligibility,
    encoder_block,
    gather_block_attention,
    gather_correlation_attention,
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


def select(op: str, *arguments: Any, backend: str = "auto") -> ModuleType:
    """The module that implements `op` on `backend` for these arguments.

    Raises:
        NotImplementedError: a named backend cannot serve the call; the message says why.
    """
    if backend == "auto":
        device = next((a.device.type for a in arguments if isinstance(a, Tensor)), None)
        for name, module in IMPLEMENTATIONS[op].items():
            # The reference runs anywhere.
            if eligibility.DEVICES.get(name, device) != device or not_supported_reasons(op, name, *arguments):
                continue
            if not slower_reasons(op, name, *arguments):
                return module
    reasons = not_supported_reasons(op, backend, *arguments)
    if reasons:
        raise NotImplementedError(f"backend {backend!r} cannot serve {op}: {'; '.join(reasons)}; use backend='auto'")
    return IMPLEMENTATIONS[op][backend]
