"""intraformer-fast: transformer-based visual clustering over k-NN graphs, with custom kernels."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intraformer_fast import cost, data, functional, graph, metrics, nn, reference
    from intraformer_fast.acceleration import accelerate
    from intraformer_fast.estimator import IntraformerClusterer
    from intraformer_fast.explanation import explain
    from intraformer_fast.installation import info

__version__ = importlib.metadata.version("intraformer-fast")

__all__ = [
    "IntraformerClusterer",
    "__version__",
    "accelerate",
    "cost",
    "data",
    "explain",
    "functional",
    "graph",
    "info",
    "metrics",
    "nn",
    "reference",
]

# Everything is imported where it is first used: `intraformer_fast.cost` needs no torch, and the command starts at once.
_MODULES = {
    "IntraformerClusterer": "estimator",
    "accelerate": "acceleration",
    "explain": "explanation",
    "info": "installation",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'intraformer_fast' has no attribute {name!r}")
    module = importlib.import_module(f"intraformer_fast.{_MODULES.get(name, name)}")
    return getattr(module, name) if name in _MODULES else module


def __dir__() -> list[str]:
    return __all__
