"""Runs of the block-attention kernels, and what they have to come to. Imported by the tests that launch them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor

from intraformer_fast import reference
from intraformer_fast.bench import parity

NAMES = ("output", "grad_q", "grad_k", "grad_v")

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "heads side by side": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "width outermost": lambda t: t.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "one cluster for all": lambda t: t[:1].expand_as(t),
}


@dataclass
class Case:
    """Inputs of one attention, on the CPU."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad: Tensor
    num_blocks: int
    valid: Tensor | None = None
    scale: float | None = None
    results: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def draw(
        cls,
        shape: tuple[int, int, int, int],
        num_blocks: int,
        dtype: torch.dtype,
        *,
        masked: bool = False,
        layout: str = "contiguous",
        size: float = 1.0,
        scale: float | None = None,
    ) -> "Case":
        q, k, v, grad = (LAYOUTS[layout]((size * torch.randn(shape)).to(dtype)) for _ in range(4))
        valid = None
        if masked:
            valid = torch.rand(shape[0], shape[2]) < 0.7
            valid[0] = False
        return cls(q, k, v, grad, num_blocks, valid, scale)

    @property
    def factor(self) -> float:
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    def run(self, launch: ModuleType, device: torch.device) -> dict[str, Tensor]:
        """Output and gradients by the kernels. What they write into holds NaN before."""
        q, k, v, grad = (t.to(device) for t in (self.q, self.k, self.v, self.grad))
        valid = None if self.valid is None else self.valid.to(device)
        output, *gradients = (torch.full(q.shape, torch.nan, dtype=q.dtype, device=device) for _ in range(4))
        launch.forward(output, q, k, v, valid, self.num_blocks, self.factor)
        launch.backward(tuple(gradients), grad, q, k, v, valid, self.num_blocks, self.factor)
        return dict(zip(NAMES, (t.cpu() for t in (output, *gradients)), strict=True))

    def expected(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The same by the reference."""
        q, k, v = (t.to(dtype).detach().requires_grad_() for t in (self.q, self.k, self.v))
        output = reference.block_attention(q, k, v, self.num_blocks, valid=self.valid, scale=self.factor)
        gradients = torch.autograd.grad(output, (q, k, v), self.grad.to(dtype))
        return dict(zip(NAMES, (output.detach(), *gradients), strict=True))


@dataclass
class GatherCase:
    """Inputs of one attention over tables, on the CPU."""

    tables: tuple[Tensor, Tensor, Tensor]
    neighbors: Tensor
    grad: Tensor
    num_blocks: int

    @classmethod
    def draw(
        cls,
        samples: int,
        heads: int,
        width: int,
        neighbors: tuple[int, int],
        num_blocks: int,
        dtype: torch.dtype,
        ids: torch.dtype = torch.int64,
    ) -> "GatherCase":
        tables = tuple(torch.randn(samples, heads, width).to(dtype) for _ in range(3))
        chosen = torch.randint(-1, samples, neighbors, dtype=ids)
        grad = torch.randn(neighbors[0], heads, neighbors[1], width).to(dtype)
        return cls(tables, chosen, grad, num_blocks)

    def run(self, launch: ModuleType, device: torch.device) -> dict[str, Tensor]:
        tables = tuple(t.to(device) for t in self.tables)
        neighbors, grad, scale = self.neighbors.to(device), self.grad.to(device), grad_scale(self.grad)
        output = torch.full_like(grad, torch.nan)
        launch.gather_forward(output, *tables, neighbors, self.num_blocks, scale)
        gradients = launch.gather_backward(grad, *tables, neighbors, self.num_blocks, scale)
        return dict(zip(NAMES, (t.cpu() for t in (output, *gradients)), strict=True))

    def expected(self, dtype: torch.dtype) -> dict[str, Tensor]:
        tables = tuple(t.to(dtype).requires_grad_() for t in self.tables)
        output = reference.gather_block_attention(*tables, self.neighbors.long(), self.num_blocks)
        gradients = torch.autograd.grad(output, tables, self.grad.to(dtype))
        return dict(zip(NAMES, (output.detach(), *gradients), strict=True))


def grad_scale(grad: Tensor) -> float:
    return grad.shape[-1] ** -0.5


def assert_parity(case: Case | GatherCase, found: dict[str, Tensor]) -> None:
    """Within twice the error of the reference in the same dtype."""
    dtype = found["output"].dtype
    verdict = parity.check(found, case.expected(dtype), case.expected(torch.float64))
    assert verdict.passed, verdict.detail
