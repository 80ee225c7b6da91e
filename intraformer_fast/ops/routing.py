"""Which backend serves a call, and why (reasons in words)."""

from types import ModuleType

from intraformer_fast import reference

# The backends that hold an implementation of an op, fastest first. "auto" takes the first that can serve a call.
IMPLEMENTATIONS: dict[str, dict[str, ModuleType]] = {
    "block_attention": {"reference": reference},
    "correlation_attention": {"reference": reference},
    "gather_block_attention": {"reference": reference},
    "purity_fmi": {"reference": reference},
}


def not_supported_reasons(op: str, backend: str) -> list[str]:
    """Why `backend` cannot serve `op`; empty where it can."""
    if backend in IMPLEMENTATIONS[op]:
        return []
    have = ", ".join(repr(name) for name in IMPLEMENTATIONS[op])
    return [f"this version of intraformer-fast has no {backend!r} implementation of {op} (it has {have})"]


def select(op: str, backend: str = "auto") -> ModuleType:
    """The module that implements `op` on `backend`.

    Raises:
        NotImplementedError: a named backend cannot serve the op; the message says why.
    """
    if backend == "auto":
        return next(iter(IMPLEMENTATIONS[op].values()))
    reasons = not_supported_reasons(op, backend)
    if reasons:
        raise NotImplementedError(f"backend {backend!r} cannot serve {op}: {'; '.join(reasons)}; use backend='auto'")
    return IMPLEMENTATIONS[op][backend]
