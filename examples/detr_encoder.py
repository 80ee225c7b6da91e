"""A Clusformer-like model (a DETR encoder over the features of a sample and its 80 neighbours), accelerated in one line.

python examples/detr_encoder.py
"""

import argparse
import copy
import time

import torch
from torch import Tensor, nn

import intraformer_fast as ifast


class NeighborTransformer(nn.Module):
    """Whether each neighbour has the sample's identity; nothing in it knows of this library."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width + 1, width)
        layer = nn.TransformerEncoderLayer(width, width // 32, 8 * width, batch_first=True)  # post-norm, ReLU: DETR's
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        similarity = features @ features[:, :1].transpose(1, 2)
        tokens = self.embed(torch.cat([features, similarity], dim=-1))
        return self.head(self.encoder(tokens, src_key_padding_mask=padding)).squeeze(-1)


def seconds(run: object, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a size for tests")
    small = parser.parse_args(arguments).small
    width, layers, batch = (64, 2, 4) if small else (256, 6, 32)

    torch.manual_seed(0)
    model = NeighborTransformer(width, layers).eval()
    eager = copy.deepcopy(model)

    print(ifast.accelerate(model))

    features = nn.functional.normalize(torch.randn(batch, 81, width), dim=-1)
    padding = torch.arange(81) >= torch.randint(40, 82, (batch, 1))
    with torch.inference_mode():
        print(ifast.explain(model, features, padding))
        ours, theirs = model(features, padding), eager(features, padding)
        exact = copy.deepcopy(eager).double()(features.double(), padding)
        fast, slow = (seconds(lambda m=m: m(features, padding), 3 if small else 9) for m in (model, eager))
    worst, allowed = ((t - exact).abs().max().item() for t in (ours, theirs))
    assert worst <= 2 * allowed + 1e-6, (worst, allowed)
    print(f"parity: error {worst:.1e} against float64, PyTorch's {allowed:.1e}")
    print(
        f"speed: {batch} samples in {fast * 1e3:.1f} ms, PyTorch {slow * 1e3:.1f} ms: {slow / fast:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
