"""Executes a launch of a Triton kernel on the CPU, from the PTX that a GPU of compute capability 8.0 would get."""

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from . import ptx
from .compiled import Compiled, Launch, compile_launch

CAPABILITY = 80
THREADS = 32  # of a warp


def execute(launch: Launch, programs: Iterable[Sequence[int]] | None = None) -> ptx.Counts:
    """Compile and execute; the tensors among the arguments are read and written in place, as on a GPU.

    Every access is checked to be of an element of its tensor, and shared memory to be free of races.

    Args:
        launch: its tensors are on the CPU.
        programs: indices in the grid of those to execute; all by default.

    Returns:
        What the programs asked for; loads and stores by the name of the argument.

    Raises:
        ptx.Fault: a wrong access, a race, or PTX that is not covered.
        ValueError: a tensor is not on the CPU.
    """
    compiled = compile_launch(launch, CAPABILITY)
    kernel = ptx.parse(compiled.ptx, compiled.name)
    memory = ptx.Memory()
    values = list(_values(launch, compiled, kernel, memory))
    block = (THREADS * launch.num_warps,)
    return ptx.launch(kernel, launch.grid, block, values, memory, programs, compiled.dynamic_shared_bytes)


def _values(launch: Launch, compiled: Compiled, kernel: ptx.Kernel, memory: ptx.Memory) -> Iterable[bytes]:
    """The bytes of each parameter. Behind the kernel's own Triton passes two pointers to scratch memory, null where none is needed."""
    sizes = [parameter.bytes for parameter in kernel.parameters]
    for name, size in zip(compiled.parameters, sizes, strict=False):
        value = launch.arguments[name]
        if isinstance(value, Tensor):
            yield struct.pack("<Q", _place(name, value, memory))
        elif isinstance(value, float):
            yield struct.pack({4: "<f", 8: "<d"}[size], value)
        else:
            yield int(value).to_bytes(size, "little", signed=value < 0)
    for size in sizes[len(compiled.parameters) :]:
        yield bytes(size)


def _place(name: str, tensor: Tensor, memory: ptx.Memory) -> int:
    """The address of a tensor, as far from a multiple of 512 bytes (what CUDA allocates at) as it is from its storage's start."""
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}: expected a tensor on the CPU, where it is executed")
    width = tensor.element_size()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    extent = extent if tensor.numel() else 0
    start = int(tensor.storage_offset()) * width
    raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())[start : start + extent * width].numpy()
    own = torch.zeros(extent, dtype=torch.bool)
    once = [1 if stride == 0 else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    own.as_strided(once if tensor.numel() else [0], tensor.stride() if tensor.numel() else [1]).fill_(True)
    allowed = None if bool(own.all()) else np.repeat(own.numpy(), width)
    return memory.add(raw, ((len(memory.regions) + 1) << 40) + start, name, allowed)
