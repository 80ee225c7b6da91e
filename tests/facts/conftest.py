"""Launches of Triton kernels of the tests' own, small enough to compile and execute on the CPU."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from intraformer_fast.kernels.common.launches import Launch


@pytest.fixture(scope="session")
def toy_kernels() -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed: there is no kernel to look at")
    path = Path(__file__).with_name("toy_kernels.py")
    spec = importlib.util.spec_from_file_location("toy_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def attention(toy_kernels) -> Callable[..., Launch]:
    """attention(q, k, v, o, **changes): one tile a program, of [programs, length, width] tensors of equal strides."""

    def make(q, k, v, o, tile=64, num_warps=4):
        programs, length, width = q.shape
        arguments = {
            "p_q": q,
            "p_k": k,
            "p_v": v,
            "p_o": o,
            "stride_b": q.stride(0),
            "stride_s": q.stride(1),
            "stride_d": q.stride(2),
        }
        arguments |= {"length": length, "scale": width**-0.5}
        return Launch(toy_kernels.attention, (programs,), arguments, {"S": tile, "D": width}, num_warps, 1)

    return make


@pytest.fixture(scope="session")
def attention_loop(toy_kernels) -> Callable[..., Launch]:
    """The same in a loop over tiles of the keys."""

    def make(q, k, v, o, tile=64, num_warps=4, num_stages=2):
        programs, length, width = q.shape
        arguments = {"p_q": q, "p_k": k, "p_v": v, "p_o": o, "stride_b": q.stride(0), "stride_s": q.stride(1)}
        arguments |= {"length": length, "scale": width**-0.5}
        grid = (-(-length // tile), programs)
        constexprs = {"S": tile, "D": width, "N": tile}
        return Launch(toy_kernels.attention_loop, grid, arguments, constexprs, num_warps, num_stages)

    return make


@pytest.fixture(scope="session")
def meta() -> Callable[..., list[torch.Tensor]]:
    """meta(count, shape, dtype): tensors without memory."""
    return lambda count, shape, dtype=torch.bfloat16: [
        torch.empty(shape, dtype=dtype, device="meta") for _ in range(count)
    ]
