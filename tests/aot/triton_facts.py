"""Compile a launch without a GPU, as the launcher of Triton would on one, and read registers, spills and instructions off it."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.bool: "*i1"}
# Bytes of shared memory that a program can have.
MOST_SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Instructions of the tensor cores, by compute capability.
TENSOR_CORE = {80: ("HMMA",), 90: ("HMMA", "HGMMA"), 100: ("HMMA", "UTCHMMA")}


class Facts(NamedTuple):
    registers: int
    stack: int
    spills: int
    shared: int
    matrix_instructions: int
    wide_loads: int


def source_of(launch):
    """As `triton.jit` specializes a call: 1 is a constant, multiples of 16 are known as such, None is no argument."""
    signature, constants, attributes = {}, dict(launch.constexprs), {}
    for i, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if name in launch.constexprs:
            signature[name] = "constexpr"
            continue
        value = launch.arguments[name]
        if value is None or (value == 1 if isinstance(value, int) and not parameter.do_not_specialize else False):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)


def facts(launch, capability, folder):
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(source_of(launch), target=GPUTarget("cuda", capability, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    code = subprocess.run([TOOLS / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
    return Facts(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),
        spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared=compiled.metadata.shared,
        matrix_instructions=sum(len(re.findall(rf"\b{name}\b", code)) for name in TENSOR_CORE[capability]),
        wide_loads=len(re.findall(r"\b(?:LDG|LDGSTS)\S*\.128\b", code)),
    )
