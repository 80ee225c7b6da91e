"""Why an op of ours cannot serve a call: what all of them ask of their tensors, and what autocast asks of the ops."""

import importlib.util

import torch
from torch import Tensor

from intraformer_fast import native

# bfloat16 on tensor cores, cp.async: what the Triton kernels are compiled and proven for.
LEAST_CAPABILITY = (8, 0)

# The kind of device that each backend's kernels run on.
DEVICES = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}


def not_supported_reasons(backend: str, tensors: dict[str, tuple[Tensor | None, tuple[torch.dtype, ...]]]) -> list[str]:
    """Reasons in words; none where the op of `backend` takes these tensors, each given with its dtypes.

    Args:
        backend: "cpu", "cuda" or "triton".
        tensors: by name. None is an optional tensor that was not given.
    """
    if backend == "triton":
        device = next((tensor.device for tensor, _ in tensors.values() if tensor is not None), None)
        reasons = list(_triton_reasons(device))
    else:
        reasons = list(native.NOT_LOADED[backend])
    # Gradients registered with the dispatcher do not work inside them (torch says so itself, at length).
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        reasons.append("a transform of torch.func (vmap, grad, ...) is active")
    for name, (tensor, dtypes) in tensors.items():
        if tensor is None:
            continue
        if tensor.device.type != DEVICES[backend]:
            reasons.append(f"{name} is on {tensor.device}")
        if tensor.dtype not in dtypes:
            reasons.append(f"{name} is {tensor.dtype} (it takes {', '.join(map(str, dtypes))})")
    return reasons


def _triton_reasons(device: torch.device | None) -> list[str]:
    if importlib.util.find_spec("triton") is None:
        return ["triton is not installed: pip install 'intraformer-fast[triton]'"]
    if device is None or device.type != "cuda" or not torch.cuda.is_available():
        return []
    if torch.version.hip is not None:
        return ["the GPU is AMD's, for which the kernels were never compiled"]
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return [f"the GPU has compute capability {capability[0]}.{capability[1]} (8.0 or later is needed)"]
    return []


def multiplies_in_tf32() -> bool:
    """Whether torch was told to round factors of float32 products to TF32 on CUDA. A compiled graph keeps the answer of its making."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# What torch.compiler.assume_constant_result does; the decorator itself would import all of the compiler, and Triton, with the package.
for _function in (_triton_reasons, multiplies_in_tf32):
    setattr(_function, "_dynamo_marked_constant", True)  # noqa: B010


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as autocast wants the factors of a product, where it is on: torch does not know our ops."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)
