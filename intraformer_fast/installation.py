"""What this installation is made of and can use."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

from intraformer_fast import __version__, native

# Distribution names, since the same import name (faiss) comes from several.
OPTIONAL_PACKAGES = ("faiss-cpu", "faiss-gpu-cu12", "triton", "scikit-network", "infomap", "pyarrow", "matplotlib")


def info() -> dict[str, Any]:
    """Versions, devices and optional packages, as plain values that JSON can hold. Nothing is imported or initialised for it.

    `cuda` holds the names of the CUDA devices torch sees; `cpu_capability` the instruction set torch's own CPU kernels use;
    `native` says of the compiled libraries which are loaded (or why not), what they were built with, and the instruction set
    they use here; `packages` maps each optional package to its version, or to None where it is not installed.
    """
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native": native.info(),
        "packages": {name: _installed(name) for name in OPTIONAL_PACKAGES},
    }


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
