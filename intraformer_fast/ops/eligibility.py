"""Why a native op cannot serve a call: what all of them ask of their tensors."""

import torch
from torch import Tensor

from intraformer_fast import native


def not_supported_reasons(library: str, tensors: dict[str, tuple[Tensor | None, tuple[torch.dtype, ...]]]) -> list[str]:
    """Reasons in words; none where the op of `library` ("cpu" or "cuda") takes these tensors, each given with its dtypes."""
    reasons = list(native.NOT_LOADED[library])
    # Gradients registered with the dispatcher do not work inside them (torch says so itself, at length).
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        reasons.append("a transform of torch.func (vmap, grad, ...) is active")
    for name, (tensor, dtypes) in tensors.items():
        if tensor is None:
            continue
        if tensor.device.type != library:
            reasons.append(f"{name} is on {tensor.device}")
        if tensor.dtype not in dtypes:
            reasons.append(f"{name} is {tensor.dtype} (it takes {', '.join(map(str, dtypes))})")
    return reasons
