"""From tensors to launches: which kernel, which tile, which grid. Takes tensors of any device; only running needs a GPU."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from intraformer_fast.kernels.common import scatter
from intraformer_fast.kernels.common.launches import Launch

from . import backward as backward_kernels
from . import configs, tuning
from . import forward as forward_kernels

TINY = 1e-30


def forward(
    output: Tensor, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, num_blocks: int, scale: float
) -> None:
    """Write block attention of q, k, v [B, H, n, D] to `output`; see `intraformer_fast.functional.block_attention`."""
    _run(forward_launches(output, q, k, v, num_blocks, scale, valid=valid))


def backward(
    gradients: tuple[Tensor, Tensor, Tensor],
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    num_blocks: int,
    scale: float,
) -> None:
    """Write the gradients of q, k, v, all [B, H, n, D], given that of the output."""
    _run(backward_launches(gradients, grad, q, k, v, num_blocks, scale, valid=valid))


def gather_forward(
    output: Tensor,
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    scale: float,
) -> None:
    """Write attention over rows of tables [N, H, D] to `output` [B, H, n, D]."""
    tables = (_by_head(table) for table in (q_table, k_table, v_table))
    _run(forward_launches(output, *tables, num_blocks, scale, neighbors=neighbors))


def gather_backward(
    grad: Tensor,
    q_table: Tensor,
    k_table: Tensor,
    v_table: Tensor,
    neighbors: Tensor,
    num_blocks: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the tables: those of every place first, then summed sample by sample."""
    tables = tuple(_by_head(table) for table in (q_table, k_table, v_table))
    batch, n = neighbors.shape
    _, heads, width = q_table.shape
    places = [q_table.new_empty((batch, n, heads, width)).transpose(1, 2) for _ in range(3)]
    _run(backward_launches(tuple(places), grad, *tables, num_blocks, scale, neighbors=neighbors))
    grad_q, grad_k, grad_v = scatter.sums(places, neighbors, len(q_table))
    return grad_q, grad_k, grad_v


def forward_launches(
    output: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_blocks: int,
    scale: float,
    *,
    valid: Tensor | None = None,
    neighbors: Tensor | None = None,
    plan: configs.Plan | None = None,
) -> Iterator[Launch]:
    """One, or none where there is nothing to do. With `neighbors`, q, k, v are tables [1, H, N, D]."""
    call = Call(output.shape, q, k, v, num_blocks, scale, valid, neighbors, plan)
    if not call.programs:
        return
    written = _matrix("out", output)
    if call.plan.forward_tile:
        yield call.tile(forward_kernels.tile, call.plan.forward_tile, written)
    else:
        yield call.loop(forward_kernels.loop, call.plan.loop, call.plan.loop.rows, written)


def backward_launches(
    gradients: tuple[Tensor, Tensor, Tensor],
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_blocks: int,
    scale: float,
    *,
    valid: Tensor | None = None,
    neighbors: Tensor | None = None,
    plan: configs.Plan | None = None,
) -> Iterator[Launch]:
    """One launch, or two where runs are longer than a tile. With `neighbors`, the gradients are those of each place."""
    call = Call(grad.shape, q, k, v, num_blocks, scale, valid, neighbors, plan)
    if not call.programs:
        return
    grad_q, grad_k, grad_v = (_matrix(f"grad_{name}", t) for name, t in zip("qkv", gradients, strict=True))
    read = _matrix("grad", grad)
    if call.plan.backward_tile:
        yield call.tile(backward_kernels.tile, call.plan.backward_tile, grad_q | grad_k | grad_v | read)
        return
    # Of each query: the maximum of its scores, the inverse of its sum of exponentials, delta.
    statistics = torch.empty((3, *grad.shape[:3]), dtype=torch.float32, device=grad.device)
    read |= {"p_statistics": statistics, "stride_statistics": statistics.stride(0), "num_tokens": grad.shape[2]}
    queries, keys = call.plan.queries, call.plan.keys
    all_keys = call.longest <= queries.keys
    yield call.loop(backward_kernels.queries, queries, queries.rows, grad_q | read, ALL_KEYS=all_keys)
    yield call.loop(backward_kernels.keys, keys, keys.keys, grad_k | grad_v | read)


class Call:
    """What the launches of one call have in common."""

    def __init__(
        self,
        shape: Sequence[int],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_blocks: int,
        scale: float,
        valid: Tensor | None,
        neighbors: Tensor | None,
        plan: configs.Plan | None,
    ) -> None:
        batch, heads, n, width = shape
        size, longer = divmod(n, num_blocks)
        self.longest = size + (longer > 0)
        self.runs = batch * heads * num_blocks
        self.programs = self.runs * self.longest
        multiplied = mode(q.dtype)
        self.plan = plan or _plan(q, shape, num_blocks, multiplied, self.longest, neighbors is not None)
        # All of one length, and nothing is padding: then a tile that this length is a multiple of is always full.
        self.whole_size = size if not longer and valid is None and neighbors is None else None
        self.arguments = {
            **_matrix("q", q),
            **_matrix("k", k),
            **_matrix("v", v),
            **_flags("valid", valid),
            **_flags("ids", neighbors),
            **{"num_samples": q.shape[2], "num_heads": heads, "num_blocks": num_blocks, "size": size, "longer": longer},
            # Scores are kept as products times `sign`, whose largest is that of the largest weight, and `factor` (never 0, which
            # would make NaN of what is masked) takes their differences to powers of 2.
            **{"scale": scale, "sign": math.copysign(1.0, scale), "factor": max(abs(scale), TINY) * math.log2(math.e)},
        }
        if neighbors is not None:  # one table for all clusters
            self.arguments |= {f"stride_{name}_b": 0 for name in "qkv"}
        self.constexprs = {
            "D": width,
            "BLOCK_D": configs.block_width(width),
            "GATHER": neighbors is not None,
            "MASKED": valid is not None,
            "PRECISION": configs.INPUT_PRECISION[multiplied],
        }

    def tile(self, kernel: Any, tile: configs.Tile, arguments: dict[str, Any]) -> Launch:
        """As many whole runs a program as fit."""
        together = tile.rows // self.longest
        arguments = {**arguments, **self.arguments, "num_runs": self.runs, "longest": self.longest}
        return self._launch(kernel, tile, -(-self.runs // together), arguments, RUNS=together)

    def loop(self, kernel: Any, tile: configs.Tile, own: int, arguments: dict[str, Any], **constexprs: bool) -> Launch:
        """`own` tokens of one run a program."""
        tiles = -(-self.longest // own)
        arguments = {**arguments, **self.arguments, "num_tiles": tiles}
        return self._launch(kernel, tile, self.runs * tiles, arguments, KEYS=tile.keys, **constexprs)

    def _launch(
        self, kernel: Any, tile: configs.Tile, programs: int, arguments: dict[str, Any], **constexprs: int
    ) -> Launch:
        size = self.whole_size
        whole = size is not None and size % tile.rows == 0 and (not tile.keys or size % tile.keys == 0)
        constexprs = {**self.constexprs, "WHOLE": whole, "ROWS": tile.rows, **constexprs}
        return Launch(kernel, (programs,), arguments, constexprs, tile.num_warps, tile.num_stages)


def mode(dtype: torch.dtype) -> str:
    """How products of this dtype are made, one of `configs.MODES`: those of float32 as torch makes its own, TF32 where it was told to
    (`torch.backends.cuda.matmul.fp32_precision = "tf32"`)."""
    if dtype != torch.float32:
        return configs.HALF
    return configs.TF32 if torch.backends.cuda.matmul.fp32_precision == "tf32" else configs.IEEE


def capability(device: torch.device) -> int:
    """Compute capability of a CUDA device, times ten; an A100's for any other, on which launches are only looked at."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _plan(
    q: Tensor, shape: Sequence[int], num_blocks: int, multiplied: str, longest: int, gather: bool
) -> configs.Plan:
    width, kind = shape[-1], capability(q.device)
    if gather or not tuning.wanted(q.device):
        return configs.plan(multiplied, width, longest, kind, gather=gather)

    def seconds(plan: configs.Plan, what: str) -> float:
        tensors = [torch.randn(*shape, dtype=q.dtype, device=q.device) for _ in range(8)]
        if what == "forward":
            (launch,) = forward_launches(*tensors[:4], num_blocks, 1.0, plan=plan)
        else:
            *first, launch = backward_launches((*tensors[:3],), *tensors[3:7], num_blocks, 1.0, plan=plan)
            launch = first[0] if what == "queries" else launch
        return tuning.measured(launch.run)

    return tuning.plan(multiplied, width, longest, kind, tuning.gpu_name(q), seconds)


def _run(launches: Iterator[Launch]) -> None:
    for launch in launches:
        launch.run()


def _by_head(table: Tensor) -> Tensor:
    """[N, H, D] as [1, H, N, D]."""
    return table.transpose(0, 1)[None]


def _matrix(name: str, tensor: Tensor) -> dict[str, Any]:
    return {
        f"p_{name}": tensor,
        **{f"stride_{name}_{axis}": s for axis, s in zip("bhtd", tensor.stride(), strict=True)},
    }


def _flags(name: str, tensor: Tensor | None) -> dict[str, Any]:
    stride_b, stride_t = (0, 0) if tensor is None else tensor.stride()
    return {f"p_{name}": tensor, f"stride_{name}_b": stride_b, f"stride_{name}_t": stride_t}
