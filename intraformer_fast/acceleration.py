"""Other people's models made faster in place."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from intraformer_fast import reference
from intraformer_fast.nn import BlockSelfAttention, FusedEncoderLayer, Intraformer
from intraformer_fast.nn.encoder_layer import layer_reasons

# What a module of exactly this kind becomes, and why one of them may have to stay. Each new kind is a subclass of the old one with
# the same attributes, so that the object itself stays and only its class changes: parameters, optimizers that hold them, hooks, mode,
# device, dtype and every name that it goes by are what they were.
KINDS: dict[type[nn.Module], tuple[type[nn.Module], Callable[..., list[str]]]] = {
    nn.TransformerEncoderLayer: (FusedEncoderLayer, layer_reasons),
    nn.MultiheadAttention: (BlockSelfAttention, lambda module: []),
    reference.Intraformer: (Intraformer, lambda module: []),
}


@dataclass(frozen=True)
class Accelerated:
    """What `accelerate` did with one module: `became` names its new class; None where it stays, for these reasons."""

    name: str
    kind: str
    became: str | None
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"{self.name or 'the model itself'}: {self.kind}"
        return f"{what} -> {self.became}" if self.became else f"{what} stays: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Acceleration:
    """What `accelerate` swapped, what of the same kinds it did not and why, and how many modules are of no kind it knows."""

    swapped: tuple[Accelerated, ...]
    kept: tuple[Accelerated, ...]
    others: int

    def __str__(self) -> str:
        lines = [
            f"{len(self.swapped)} swapped, {len(self.kept)} kept, {self.others} of no kind that this library serves"
        ]
        return "\n".join([*lines, *map(str, self.swapped), *map(str, self.kept)])


def accelerate(module: nn.Module) -> Acceleration:
    """Swap every eligible layer of a model in place for this library's.

    `torch.nn.TransformerEncoderLayer` becomes `nn.FusedEncoderLayer`, `torch.nn.MultiheadAttention` becomes `nn.BlockSelfAttention`,
    `reference.Intraformer` becomes `nn.Intraformer`. The modules stay the objects that they are, with their parameters, hooks, mode,
    device and dtype; only their class changes. So does nothing that the model computes, beyond rounding. A second call does nothing.

    Args:
        module: any model; itself, if it is eligible.

    Returns:
        What was swapped, and what was not with the reasons; `print` it.

    Raises:
        TypeError: it is no `torch.nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"accelerate was given a {type(module).__name__}: expected a torch.nn.Module")
    swapped, kept, others = [], [], 0
    for name, part in module.named_modules():
        known = next((kind for kind in KINDS if isinstance(part, kind)), None)
        if known is None:
            others += 1
            continue
        became, reasons = KINDS[known]
        if isinstance(part, became):
            kept.append(Accelerated(name, type(part).__name__, None, ("it is this library's already",)))
        elif found := _reasons(part, known) or reasons(part):
            kept.append(Accelerated(name, type(part).__name__, None, tuple(found)))
        else:
            part.__class__ = became
            swapped.append(Accelerated(name, known.__name__, became.__name__))
    return Acceleration(tuple(swapped), tuple(kept), others)


def _reasons(module: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Why a module that is of a kind by its class may not do what that kind does."""
    if isinstance(module, torch.jit.ScriptModule):
        return ["it is scripted"]
    if type(module) is not kind:
        return [f"it is a subclass of {kind.__name__}, which may compute something else"]
    if "forward" in vars(module):
        return ["its forward was replaced"]
    return []
