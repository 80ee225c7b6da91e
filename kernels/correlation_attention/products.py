"""Products of tokens with one matrix a stream: Z = X W_m, dX = G W_m^T, dW_m = X^T G.

Where one matrix serves all tokens cuBLAS does them. With a matrix for each stream, whose tokens are no matrix in memory, the
kernels of projection.py do them for 16-bit numbers, all streams in one launch; for float32, whose arithmetic takes far longer than
a copy of the tokens, cuBLAS does them stream by stream.
"""

import torch
from torch import Tensor

from intraformer_fast.kernels.common.launches import Launch

from . import configs, projection

# Rows of a stream are numbered in 32 bits.
MOST_ROWS = 2**31 - 2**16


def project(x: Tensor, weight: Tensor, num_streams: int, output: Tensor | None = None) -> Tensor:
    """Tokens [B, n, d] of each of the streams times its matrix, weight [w, d, d], w = num_streams or 1; contiguous."""
    batch, n, width = x.shape
    output = x.new_empty(x.shape) if output is None else output
    if weight.shape[0] == 1:
        torch.mm(x.reshape(-1, width), weight[0], out=output.view(-1, width))
    elif _by_kernel(x):
        project_launch(output, x, weight).run()
    else:
        for m, (start, stop) in enumerate(runs(n, num_streams)):
            rows = x[:, start:stop].reshape(-1, width) @ weight[m]
            output[:, start:stop] = rows.view(batch, stop - start, width)
    return output


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, num_streams: int) -> Tensor:
    """X^T G of each stream, in the shape of `weight`, for tokens [B, n, d] of both."""
    width = x.shape[-1]
    if weight.shape[0] == 1:
        return (x.reshape(-1, width).mT @ g.reshape(-1, width))[None]
    if _by_kernel(x):
        parts, launch = weight_gradient_launch(x, g, num_streams)
        launch.run()
        return parts.sum(0).to(weight.dtype)
    bounds = runs(x.shape[1], num_streams)
    return torch.stack([x[:, a:b].reshape(-1, width).mT @ g[:, a:b].reshape(-1, width) for a, b in bounds])


def runs(n: int, num_runs: int) -> list[tuple[int, int]]:
    """[start, stop) of each run, as numpy.array_split cuts n."""
    size, longer = divmod(n, num_runs)
    return [(m * size + min(m, longer), (m + 1) * size + min(m + 1, longer)) for m in range(num_runs)]


def project_launch(output: Tensor, x: Tensor, weight: Tensor) -> Launch:
    batch, n, width = x.shape
    streams, tiles = weight.shape[0], configs.PROJECT
    num_tiles = -(-batch * -(-n // streams) // tiles.rows)
    arguments = {
        **_tokens("out", output),
        **_tokens("x", x),
        "p_w": weight,
        **dict(zip(("stride_w_m", "stride_w_i", "stride_w_o"), weight.stride(), strict=True)),
        **{"batch": batch, "num_tokens": n, "num_streams": streams, "num_tiles": num_tiles},
    }
    grid = (streams * num_tiles * -(-width // tiles.columns),)
    return Launch(projection.project, grid, arguments, _constexprs(width, tiles), tiles.num_warps, tiles.num_stages)


def weight_gradient_launch(
    x: Tensor, g: Tensor, num_streams: int, capability: int | None = None
) -> tuple[Tensor, Launch]:
    """The launch, and the parts it writes: [parts, num_streams, d, d] in float32, of which the gradient is the sum."""
    batch, n, width = x.shape
    tiles = configs.weight_gradient_tiles(configs.capability_of(x.device) if capability is None else capability)
    rows = batch * -(-n // num_streams)
    num_parts = configs.weight_gradient_parts(rows, width, num_streams, tiles)
    parts = x.new_empty((num_parts, num_streams, width, width), dtype=torch.float32)
    arguments = {
        "p_out": parts,
        **_tokens("x", x),
        **_tokens("g", g),
        **{"batch": batch, "num_tokens": n, "num_streams": num_streams, "rows_of_part": -(-rows // num_parts)},
    }
    grid = (num_parts * num_streams * -(-width // tiles.rows) * -(-width // tiles.columns),)
    constexprs = _constexprs(width, tiles)
    return parts, Launch(projection.weight_gradient, grid, arguments, constexprs, tiles.num_warps, tiles.num_stages)


def _by_kernel(x: Tensor) -> bool:
    return x.dtype != torch.float32 and x.shape[0] * x.shape[1] <= MOST_ROWS


def _tokens(name: str, tensor: Tensor) -> dict[str, Tensor | int]:
    return {f"p_{name}": tensor, f"stride_{name}_b": tensor.stride(0), f"stride_{name}_n": tensor.stride(1)}


def _constexprs(width: int, tiles: configs.Projection) -> dict[str, int]:
    return {"D": width, "BM": tiles.rows, "BN": tiles.columns, "BK": tiles.step}
