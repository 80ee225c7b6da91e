"""A launch of a Triton kernel as a value: made from tensors by a pure function, then run, compiled without a GPU, or counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """All that decides what a kernel compiles to and does.

    Attributes:
        kernel: a function decorated with `triton.jit`.
        grid: one to three numbers of programs.
        arguments: of the kernel by parameter name, but for the constexprs: tensors (also on the CPU or on `meta`, unless it is to be
            run), None, int, float or bool.
        constexprs: of the kernel by parameter name.
        num_warps: of 32 threads, a program.
        num_stages: of software pipelining.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        """Launch it on the device of its tensors, which need not be the current one."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        with torch.cuda.device_of(next(a for a in self.arguments.values() if isinstance(a, Tensor))):
            self.kernel[self.grid](**self.arguments, **self.constexprs, **options)
