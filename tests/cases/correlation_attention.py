"""Runs of the C-ATT kernels, and what they have to come to. Imported by the tests that launch them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from intraformer_fast.bench import parity
from intraformer_fast.ops import correlation_attention as op

NAMES = ("output", "grad_member", "grad_anchor", "grad_weight")

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "tokens outermost": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "width outermost": lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "unaligned": lambda t: torch.cat([torch.full_like(t[..., :1], torch.nan), t], dim=-1)[..., 1:],
    "wider rows": lambda t: torch.cat([t, torch.full_like(t[..., :16], torch.nan)], dim=-1)[..., : t.shape[-1]],
    "one cluster for all": lambda t: t[:1].expand_as(t),
}


@dataclass(frozen=True)
class Case:
    """Inputs of one C-ATT, on the CPU; named as in the schema of the op."""

    member: Tensor
    anchor: Tensor
    weight: Tensor
    grad: Tensor
    valid_member: Tensor | None
    valid_anchor: Tensor | None
    num_streams: int
    anchor_asks: bool

    @classmethod
    def draw(
        cls,
        batch: int,
        members: int,
        anchors: int,
        width: int,
        num_streams: int,
        dtype: torch.dtype,
        *,
        anchor_asks: bool = False,
        shared: bool = False,
        masked: bool = False,
        layout: str = "contiguous",
        size: float = 1.0,
    ) -> "Case":
        """`masked`: 30 % of the tokens are padding, and all of the first cluster's."""
        member, anchor, grad = (
            LAYOUTS[layout]((size * torch.randn(batch, n, width)).to(dtype)) for n in (members, anchors, members)
        )
        weight = torch.randn(1 if shared else num_streams, width, width) / width
        valid: list[Tensor | None] = [None, None]
        if masked:
            valid = [torch.rand(batch, n) < 0.7 for n in (members, anchors)]
            for v in valid:
                v[0] = False  # type: ignore[index]
        return cls(member, anchor, weight.to(dtype), grad, *valid, num_streams, anchor_asks)

    def poisoned(self) -> "Case":
        """NaN where the context is padding. Padding that asks is answered, so that it is left as it is."""
        context = self.member if self.anchor_asks else self.anchor
        valid = self.valid_member if self.anchor_asks else self.valid_anchor
        spoiled = context.masked_fill(~valid[..., None], torch.nan)  # type: ignore[index]
        return replace(self, member=spoiled) if self.anchor_asks else replace(self, anchor=spoiled)

    def run(self, launch: ModuleType, device: torch.device) -> dict[str, Tensor]:
        """Output and gradients by the kernels."""
        tensors = (self.grad, self.member, self.anchor, self.weight, self.valid_member, self.valid_anchor)
        grad, *inputs = (t if t is None else t.to(device) for t in tensors)
        output = launch.forward(*inputs, self.num_streams, self.anchor_asks)
        gradients = launch.backward(grad, *inputs, self.num_streams, self.anchor_asks)
        return dict(zip(NAMES, (t.cpu() for t in (output, *gradients)), strict=True))

    def expected(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The same by the reference, stream by stream."""
        leaves = [t.to(device, dtype).detach().requires_grad_() for t in (self.member, self.anchor, self.weight)]
        masks = [t if t is None else t.to(device) for t in (self.valid_member, self.valid_anchor)]
        output = op.streams(*leaves, *masks, self.num_streams, self.anchor_asks)
        gradients = torch.autograd.grad(output, leaves, self.grad.to(device, dtype), materialize_grads=True)
        return dict(zip(NAMES, (t.cpu() for t in (output.detach(), *gradients)), strict=True))


def assert_parity(case: Case, found: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
    """Within twice the error of the reference in the same dtype."""
    verdict = parity.check(found, case.expected(found["output"].dtype, device), case.expected(torch.float64))
    assert verdict.passed, verdict.detail
