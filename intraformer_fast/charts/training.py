"""A training over its epochs, and how it tells pairs apart."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .canvas import DIFFERENT, GROUP_COLORS, LONGEST_NAME, SAME, blank_figure, plain, png, shortened

HISTOGRAM_BINS = 50


def edge_histogram(same: npt.NDArray[Any], different: npt.NDArray[Any], quantity: str) -> bytes:
    """Shares of the pairs of one identity and of the pairs of two, each of which sums to 100 %, over `quantity`.

    Args:
        same: floating [S], finite; may be empty.
        different: floating [T], finite; may be empty.
        quantity: what the values are, below the axis.
    """
    both = np.concatenate([same, different])
    low, high = (float(both.min()), float(both.max())) if both.size else (0.0, 1.0)
    # A cosine or a probability is read against its whole range from 0 to 1.
    edges = np.linspace(min(low, 0.0), max(high, 1.0), HISTOGRAM_BINS + 1)
    figure = blank_figure(2.9)
    axes = figure.subplots()
    for values, color, name in ((different, DIFFERENT, "different identity"), (same, SAME, "same identity")):
        if values.size:
            shares = 100 * np.histogram(values, edges)[0] / values.size
            axes.stairs(shares, edges, color=color, linewidth=1.4)
            label = f"{name} ({values.size:,} pairs)"
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.35, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(shortened(quantity), parse_math=False)
    axes.set_ylabel("% of the pairs of a kind")
    axes.grid(axis="y")
    if both.size:
        plain(figure.legend(loc="outside upper left", frameon=False).get_texts())
    return png(figure)


# In the order of the legend; a key counts where its last words are these ("val_auc" as "auc").
LOSSES = ("loss", "total", "fmi", "bce", "fairness")


SCORES = ("auc", "f1", "purity")


def curves(history: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The losses and the scores of a training history, by key: what is neither, or has no finite number, is left out.

    Missing and None values are NaN.
    """

    def series(kinds: tuple[str, ...]) -> dict[str, list[float]]:
        keys = dict.fromkeys(key for epoch in history for key in epoch)
        found = {
            key: [_number(epoch.get(key)) for epoch in history] for kind in kinds for key in keys if _is(key, kind)
        }
        return {key: values for key, values in found.items() if not all(map(math.isnan, values))}

    return series(LOSSES), series(SCORES)


def loss_curves(history: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The `curves` of a training over its epochs: losses above, scores below. None where there is nothing to plot."""
    panels = [(name, found) for name, found in zip(("training loss", "score"), curves(history), strict=True) if found]
    if not panels:
        return None
    epochs = [_number(epoch.get("epoch", i + 1)) for i, epoch in enumerate(history)]
    figure = blank_figure(0.6 + 2.2 * len(panels))
    for axes, (name, found) in zip(figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0], panels, strict=True):
        for i, (key, values) in enumerate(found.items()):
            # Of one epoch there is no line, only its mark.
            style, size = ("_--", 9) if key.startswith("cosine") else ("o-", 3)
            axes.plot(
                epochs,
                values,
                style,
                color=GROUP_COLORS[i % 6],
                linewidth=1.5,
                markersize=size,
                label=shortened(key, LONGEST_NAME // 3),
            )
        axes.set_ylabel(name)
        axes.grid(axis="y")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=1.2)
        plain(legend.get_texts())
    axes.set_xlabel("epoch")
    return png(figure)


def _is(key: str, kind: str) -> bool:
    return key == kind or key.endswith(f"_{kind}")


def _number(value: Any) -> float:
    """The value as a float; NaN where it is none, or not finite."""
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    return math.nan
