"""Executes PTX on the CPU and counts what it asks of a GPU: memory sectors, bank conflicts, matrix operations, instructions.

All threads of a block are one NumPy vector. Where they part at a branch, those at the lowest instruction go on first, so they meet
again at the earliest place. Covers what nvcc makes of the kernels in csrc and Triton of those in kernels/, for sm_80; anything else
is an error, never a guess. No caches, no cycles: a count here is what the code requests, not what a GPU's caches let through.
"""

from .block import launch
from .counts import Counts, Traffic
from .memory import SECTOR, Memory
from .program import WARP, Fault, Instruction, Kernel, parse

__all__ = ["SECTOR", "WARP", "Counts", "Fault", "Instruction", "Kernel", "Memory", "Traffic", "launch", "parse"]
