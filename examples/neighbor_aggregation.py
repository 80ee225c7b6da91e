"""A graph convolution over sub-graphs of a k-NN graph, as in GCN-V and L-GCN, with the aggregation by the gather op.

Every sample's sub-graph is its n nearest neighbours, and every node of it becomes relu(W [x_i ; sum_j a_ij x_j]), with a_ij either
1 / n (the mean) or the softmax of the nodes' similarities. [N, n, d] is never gathered for the aggregation.

    python examples/neighbor_aggregation.py
"""

import argparse
import time

import torch
from torch import Tensor, nn

import intraformer_fast as ifast


class Aggregation(nn.Module):
    """`temperature=0` is the mean over the sub-graph."""

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.project = nn.Linear(2 * width, width)

    def aggregate(self, features: Tensor, neighbors: Tensor) -> Tensor:
        table = features[:, None]  # [N, 1, d]: one head; queries, keys and values are the features themselves
        gathered = ifast.functional.gather_block_attention(table, table, table, neighbors, 1, scale=self.temperature)
        return gathered.squeeze(1)  # [B, n, d]

    def forward(self, features: Tensor, neighbors: Tensor) -> Tensor:
        nodes = torch.cat([features[neighbors], self.aggregate(features, neighbors)], dim=-1)
        return self.project(nodes).relu()


def plain(features: Tensor, neighbors: Tensor, temperature: float) -> Tensor:
    """The same aggregation as one would write it."""
    nodes = features[neighbors]
    if temperature == 0:
        return nodes.mean(1, keepdim=True).expand_as(nodes)
    return (temperature * nodes @ nodes.transpose(1, 2)).softmax(-1) @ nodes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a size for tests")
    small = parser.parse_args(arguments).small
    samples, n = (300, 20) if small else (4000, 80)

    torch.manual_seed(0)
    features = nn.functional.normalize(torch.randn(samples, 128), dim=-1)
    neighbors, _ = ifast.graph.knn_graph(features, n)
    for temperature in (0.0, 20.0):
        layer = Aggregation(128, temperature)
        with torch.inference_mode():
            assert layer(features, neighbors).shape == (samples, n, 128)
            times = []
            for run in (layer.aggregate, lambda f, i, t=temperature: plain(f, i, t)):
                start = time.perf_counter()
                run(features, neighbors)
                times.append(time.perf_counter() - start)
            ours, theirs = layer.aggregate(features, neighbors), plain(features, neighbors, temperature)
            exact = plain(features.double(), neighbors, temperature)
        worst, allowed = ((t - exact).abs().max().item() for t in (ours, theirs))
        assert worst <= 2 * allowed + 1e-6, (worst, allowed)
        print(f"{'mean' if temperature == 0 else 'softmax of similarities'} over {samples} sub-graphs of {n}")
        print(f"  parity: error {worst:.1e} against float64, PyTorch's {allowed:.1e}")
        print(
            f"  speed: {times[0] * 1e3:.1f} ms, PyTorch {times[1] * 1e3:.1f} ms: {times[1] / times[0]:.2f} times as fast"
        )
    print(
        "where the mean of whole sub-graphs is all that is wanted, the plain line is the better one: it is one row, not n"
    )


if __name__ == "__main__":
    main()
