"""The number formats a model runs in, and the settings it runs under."""

import contextlib
import platform
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")
# Of inference alone: int8 knows no gradients.
INFERENCE_PRECISIONS = (*PRECISIONS, "int8")


def resolve_precision(precision: str, device: torch.device, known: Sequence[str] = PRECISIONS) -> str:
    """The name itself, or for "auto" what it means on this device: "bf16" or "fp32".

    bf16 where the hardware multiplies it faster than float32: CUDA devices that have it, CPUs with AVX512-BF16 or AMX.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in known:
        raise ValueError(f"precision = {precision!r}: expected one of {', '.join(map(repr, known))}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if fast else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 inside the block where precision is "bf16"; weights and sums stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32, others as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


@contextlib.contextmanager
def float32_products_by_onednn(device: torch.device) -> Iterator[None]:
    """Let oneDNN rather than MKL multiply float32 matrices inside the block, where that changes speed alone.

    torch hands float32 products on x86 to oneDNN only when told that bf16 would do. Without AMX oneDNN has no such
    kernel and multiplies in float32: a training step took a tenth less than with MKL on an AMD EPYC. With AMX it would
    really round to bf16, so there, and on other processors, nothing is changed. The setting is the whole process's; no
    other device's products follow it.
    """
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_amx_tile_supported():
        yield
        return
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no autograd inside the block; the model's own mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), float32_products_by_onednn(next(model.parameters()).device):
            yield
    finally:
        model.train(was_training)
