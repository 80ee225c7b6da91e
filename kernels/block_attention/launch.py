"""From tensors to launches: which kernel, which tile, which grid. Takes tensors of any device; only running needs a GPU."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from intraformer_fast.kernels.common.launches import Launch

from . import backward as backward_kernels
from . import configs, scatter
from . import forward as forward_kernels

# Gradients of one place of one sample, read at once by a program of `scatter.sum_places`.
PLACES = 8


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
    results = tuple(
        torch.zeros_like(table, memory_format=torch.contiguous_format) for table in (q_table, k_table, v_table)
    )
    # Stable, so that the places of a sample are summed in their order, the same every time.
    ids, order = neighbors.reshape(-1).to(torch.int64).sort(stable=True)
    ends = torch.searchsorted(ids, ids, right=True)
    _run(scatter_launch(table, place, ids, order, ends) for table, place in zip(results, places, strict=True))
    return results  # type: ignore[return-value]


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
    batch, heads, n, width = output.shape
    runs, size, longer, longest = _runs(batch, heads, n, num_blocks)
    if not runs * longest:
        return
    plan = plan or configs.plan(mode(q.dtype), width, longest, capability(q.device))
    arguments = {
        **_matrix("out", output),
        **_inputs(q, k, v, valid, neighbors),
        **{"num_samples": q.shape[2], "num_heads": heads, "num_blocks": num_blocks, "size": size, "longer": longer},
        "scale": scale,
    }
    if plan.forward_tile:
        yield _tile_launch(forward_kernels.tile, plan.forward_tile, arguments, width, runs, longest)
    else:
        yield _loop_launch(forward_kernels.loop, plan.loop, plan.loop.rows, arguments, width, runs, longest)


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
    batch, heads, n, width = grad.shape
    runs, size, longer, longest = _runs(batch, heads, n, num_blocks)
    if not runs * longest:
        return
    plan = plan or configs.plan(mode(q.dtype), width, longest, capability(q.device))
    grad_q, grad_k, grad_v = gradients
    arguments = {
        **_matrix("grad", grad),
        **_inputs(q, k, v, valid, neighbors),
        **{"num_samples": q.shape[2], "num_heads": heads, "num_blocks": num_blocks, "size": size, "longer": longer},
        "scale": scale,
    }
    if plan.backward_tile:
        written = _matrix("grad_q", grad_q) | _matrix("grad_k", grad_k) | _matrix("grad_v", grad_v)
        yield _tile_launch(backward_kernels.tile, plan.backward_tile, written | arguments, width, runs, longest)
        return
    # Of each query: the maximum of its scores, the inverse of its sum of exponentials, delta.
    statistics = torch.empty((3, batch, heads, n), dtype=torch.float32, device=grad.device)
    shared = {"p_statistics": statistics, "stride_statistics": statistics.stride(0), **arguments, "num_tokens": n}
    yield _loop_launch(
        backward_kernels.queries,
        plan.queries,
        plan.queries.rows,
        _matrix("grad_q", grad_q) | shared,
        width,
        runs,
        longest,
        ALL_KEYS=longest <= plan.queries.keys,
    )
    written = _matrix("grad_k", grad_k) | _matrix("grad_v", grad_v)
    yield _loop_launch(backward_kernels.keys, plan.keys, plan.keys.keys, written | shared, width, runs, longest)


def scatter_launch(table: Tensor, place: Tensor, ids: Tensor, order: Tensor, ends: Tensor) -> Launch:
    """Sum `place` [B, H, n, D] into the rows of `table` [N, H, D]; see `scatter.sum_places` for the others, all [B * n]."""
    strides = dict(zip(("stride_table_n", "stride_table_h", "stride_table_d"), table.stride(), strict=True))
    arguments = {
        "p_table": table,
        **strides,
        **_matrix("grad", place),
        **{
            "p_sorted": ids,
            "p_order": order,
            "p_end": ends,
            "num_samples": table.shape[0],
            "num_neighbors": place.shape[2],
        },
    }
    width = table.shape[-1]
    constexprs = {"D": width, "BLOCK_D": configs.block_width(width), "PLACES": PLACES}
    return Launch(scatter.sum_places, (max(1, ids.numel()), table.shape[1]), arguments, constexprs, 4, 1)


def mode(dtype: torch.dtype) -> str:
    """How products of this dtype are made, one of `configs.MODES`: those of float32 as torch was told to make its own
    (`torch.backends.cuda.matmul.fp32_precision`, "tf32" or "ieee"), else as three of TF32."""
    if dtype != torch.float32:
        return configs.HALF
    asked: str = torch.backends.cuda.matmul.fp32_precision
    return {"tf32": configs.TF32, "ieee": configs.IEEE}.get(asked, configs.FLOAT32)


def capability(device: torch.device) -> int:
    """Compute capability of a CUDA device, times ten; an A100's for any other, on which launches are only looked at."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _run(launches: Iterator[Launch]) -> None:
    for launch in launches:
        launch.run()


def _by_head(table: Tensor) -> Tensor:
    """[N, H, D] as [1, H, N, D]."""
    return table.transpose(0, 1)[None]


def _runs(batch: int, heads: int, n: int, num_blocks: int) -> tuple[int, int, int, int]:
    """Number of runs, their length, how many of a cluster are one longer, and the length of those."""
    size, longer = divmod(n, num_blocks)
    return batch * heads * num_blocks, size, longer, size + (longer > 0)


def _matrix(name: str, tensor: Tensor) -> dict[str, Any]:
    return {
        f"p_{name}": tensor,
        **{f"stride_{name}_{axis}": s for axis, s in zip("bhtd", tensor.stride(), strict=True)},
    }


def _inputs(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, neighbors: Tensor | None) -> dict[str, Any]:
    arguments = _matrix("q", q) | _matrix("k", k) | _matrix("v", v)
    if neighbors is not None:
        for name in "qkv":
            arguments[f"stride_{name}_b"] = 0  # one table for all clusters
    for name, tensor in (("valid", valid), ("ids", neighbors)):
        stride_b, stride_t = (0, 0) if tensor is None else tensor.stride()
        arguments |= {f"p_{name}": tensor, f"stride_{name}_b": stride_b, f"stride_{name}_t": stride_t}
    return arguments


def _constexprs(arguments: dict[str, Any], width: int, *multiples: int) -> dict[str, Any]:
    """`multiples`: where runs are all of one length, a multiple of each of these, and nothing is padding, tiles are whole."""
    gather, masked = arguments["p_ids"] is not None, arguments["p_valid"] is not None
    ragged = arguments["longer"] > 0 or any(arguments["size"] % multiple for multiple in multiples)
    return {
        "D": width,
        "BLOCK_D": configs.block_width(width),
        "GATHER": gather,
        "MASKED": masked,
        "WHOLE": not (gather or masked or ragged),
        "PRECISION": configs.INPUT_PRECISION[mode(arguments["p_q"].dtype)],
    }


def _tile_launch(
    kernel: Any, tile: configs.Tile, arguments: dict[str, Any], width: int, runs: int, longest: int
) -> Launch:
    together = tile.rows // longest
    constexprs = {**_constexprs(arguments, width, tile.rows), "ROWS": tile.rows, "RUNS": together}
    arguments = {**arguments, "num_runs": runs, "longest": longest}
    return Launch(kernel, (-(-runs // together),), arguments, constexprs, tile.num_warps, tile.num_stages)


def _loop_launch(
    kernel: Any,
    tile: configs.Tile,
    own: int,
    arguments: dict[str, Any],
    width: int,
    runs: int,
    longest: int,
    **more: bool,
) -> Launch:
    """`own`: rows of a run that a program owns."""
    tiles = -(-longest // own)
    constexprs = {**_constexprs(arguments, width, tile.rows, tile.keys), "ROWS": tile.rows, "KEYS": tile.keys, **more}
    return Launch(
        kernel, (runs * tiles,), arguments | {"num_tiles": tiles}, constexprs, tile.num_warps, tile.num_stages
    )
