"""The compiled libraries beside this package: which are loaded, and why one is not (reasons in words)."""

import importlib.util
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
NAMESPACE = "intraformer_fast"


def _load(name: str) -> list[str]:
    path = FOLDER / f"_C_{name}.so"
    if not path.exists():
        needed = {"cpu": "a C++20 compiler", "cuda": "nvcc and a C++20 compiler"}[name]
        return [f"this installation has no native {name} library (reinstall from the sources with {needed} on PATH)"]
    if name == "cuda" and torch.version.cuda is None:
        return [f"torch {torch.__version__} is a build without CUDA"]
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return [f"the native {name} library does not load under torch {torch.__version__}: {error}"]
    return []


# The schemas are in the CPU library, so it comes first.
NOT_LOADED: dict[str, list[str]] = {name: _load(name) for name in ("cpu", "cuda")}

# Through it ops/ defines the operators that Triton serves too, and registers what schemas lack; torch takes all of it back when
# it is collected.
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def info() -> dict[str, Any]:
    """What the libraries were built with, which are loaded, and the instruction set the CPU ops use here."""
    built: dict[str, Any] = {}
    if importlib.util.find_spec("intraformer_fast._build_info"):
        built = importlib.import_module("intraformer_fast._build_info").build_info()
    loaded = {name: "; ".join(reasons) or "loaded" for name, reasons in NOT_LOADED.items()}
    instruction_set = None if NOT_LOADED["cpu"] else torch.ops.intraformer_fast.cpu_instruction_set()
    return {**loaded, "cpu_instruction_set": instruction_set, "build": built}
