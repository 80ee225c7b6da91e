"""Runs of the C-ATT kernels, and what they have to come to. Imported by the tests that launch them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from intraformer_fast.bench import parity
from intraformer_fast.kernels.correlation_attention.call import Call
from intraformer_fast.ops import gather_correlation_attention as gather_op
from intraformer_fast.ops.correlation_attention import streams

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
    member_ids: Tensor | None = None
    anchor_ids: Tensor | None = None

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

    @classmethod
    def gather(
        cls,
        members: tuple[int, int],
        anchors: tuple[int, int],
        samples: tuple[int | None, int],
        width: int,
        num_streams: int,
        dtype: torch.dtype,
        *,
        anchor_asks: bool = False,
        ids: torch.dtype = torch.int64,
    ) -> "Case":
        """`members`, `anchors`: clusters and tokens. `samples`: rows of the table of each; None gives members of their own, masked. A
        quarter of the ids are padding, and all of the first cluster's; the last row of a table stands in the last place."""
        drawn: list[Tensor | None] = []
        for (batch, n), rows in ((members, samples[0]), (anchors, samples[1])):
            if rows is None:
                drawn += [torch.randn(batch, n, width).to(dtype), None]
                continue
            chosen = torch.randint(rows, (batch, n), dtype=ids).masked_fill(torch.rand(batch, n) < 0.25, -1)
            chosen[0] = -1
            chosen[-1, -1] = rows - 1
            drawn += [torch.randn(rows, width).to(dtype), chosen]
        member, member_ids, anchor, anchor_ids = drawn
        valid = torch.rand(members) < 0.7 if member_ids is None else None
        weight = (torch.randn(num_streams, width, width) / width).to(dtype)
        grad = torch.randn(*members, width).to(dtype)
        return cls(  # type: ignore[arg-type]
            member, anchor, weight, grad, valid, None, num_streams, anchor_asks, member_ids, anchor_ids
        )

    def poisoned(self) -> "Case":
        """NaN where the context is padding. Padding that asks is answered, so that it is left as it is."""
        context = self.member if self.anchor_asks else self.anchor
        valid = self.valid_member if self.anchor_asks else self.valid_anchor
        spoiled = context.masked_fill(~valid[..., None], torch.nan)  # type: ignore[index]
        return replace(self, member=spoiled) if self.anchor_asks else replace(self, anchor=spoiled)

    def run(self, launch: ModuleType, device: torch.device) -> dict[str, Tensor]:
        """Output and gradients by the kernels."""
        call = self.call(device)
        output, gradients = launch.forward(call), launch.backward(self.grad.to(device), call)
        return dict(zip(NAMES, (t.cpu() for t in (output, *gradients)), strict=True))

    def call(self, device: torch.device | str) -> Call:
        values = (getattr(self, name) for name in Call._fields)
        return Call(*(value.to(device) if isinstance(value, Tensor) else value for value in values))

    def expected(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The same by the reference, stream by stream."""
        call = self.call(device)
        leaves = [t.to(dtype).detach().requires_grad_() for t in call[:3]]
        output = gather_op.gathered(streams, *leaves, *call[3:])
        gradients = torch.autograd.grad(output, leaves, self.grad.to(device, dtype), materialize_grads=True)
        return dict(zip(NAMES, (t.cpu() for t in (output.detach(), *gradients)), strict=True))


def assert_parity(case: Case, found: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
    """Within twice the error of the reference in the same dtype."""
    verdict = parity.check(found, case.expected(found["output"].dtype, device), case.expected(torch.float64))
    assert verdict.passed, verdict.detail
