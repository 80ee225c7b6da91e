"""Scores by demographic group: bars, means with STD, and the STD of several metrics at once."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .canvas import GRID, GROUP_COLORS, HATCHES, INK, LONGEST_NAME, SAME, blank_figure, plain, png, shortened, write


class MethodBars(NamedTuple):
    """One method of `group_bars`: its value in each group [p], their mean and standard deviation, all in [0, 1]."""

    name: str
    values: Sequence[float]
    mean: float
    std: float
    ours: bool


def group_bars(heading: str, groups: Sequence[str], methods: Sequence[MethodBars]) -> bytes:
    """A block of bars for each method, one bar for each group, with the mean and the STD over groups below them.

    Args:
        heading: what the bars measure, below the axis.
        groups: name of each group [p].
        methods: in the order of the picture, from the top.
    """
    rows = len(groups) + 1
    block = rows + 2.9
    labels = [*map(shortened, groups), "mean ± STD"]
    legend_columns = max(1, min(3, LONGEST_NAME // (4 + max(map(len, labels)))))
    legend_rows = math.ceil(len(labels) / legend_columns)
    figure = blank_figure(0.75 + 0.105 * block * len(methods) + 0.2 * legend_rows)
    axes = figure.subplots()
    handles: list[Any] = []
    for i, method in enumerate(methods):
        top = i * block
        values = 100 * np.asarray(method.values)
        write(axes, 0, top, shortened(method.name), fontsize=9, weight="bold" if method.ours else "normal")
        bars = [
            axes.barh(
                top + 1.2 + j,
                values[j],
                height=0.9,
                color=GROUP_COLORS[j % len(GROUP_COLORS)],
                hatch=HATCHES[j // len(GROUP_COLORS) % len(HATCHES)],
                edgecolor="white",
                linewidth=0,
            )
            for j in range(len(groups))
        ]
        last = top + 1.3 + len(groups)
        statistics = f"mean {100 * method.mean:.1f}, STD {100 * method.std:.1f}"
        # On the side where the whiskers leave more room.
        at_left = method.mean > 0.5
        write(axes, 0 if at_left else 100, last, statistics, fontsize=8, ha="left" if at_left else "right")
        mean = axes.errorbar(
            100 * method.mean,
            last,
            xerr=100 * method.std,
            fmt="D",
            color=INK,
            markersize=3.5,
            linewidth=1.2,
            capsize=2.5,
        )
        handles = [*bars, mean]
    axes.set_xlim(0, 100)
    axes.set_ylim(len(methods) * block - 0.6, -0.9)
    axes.set_yticks([])
    axes.set_xlabel(shortened(heading), parse_math=False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False, handlelength=1.2
    )
    plain(legend.get_texts())
    return png(figure)


class Spread(NamedTuple):
    """One method of `std_and_mean` and `std_radar`: for each metric its mean and STD over groups, in [0, 1]."""

    name: str
    means: Sequence[float]
    stds: Sequence[float]
    ours: bool


def std_and_mean(heading: str, methods: Sequence[Spread], metric: int = 0) -> bytes:
    """For each method a bar of the STD over groups, on the lower axis, and a diamond at the mean, on the upper one.

    Args:
        heading: the metric.
        methods: in the order of the picture, from the top.
        metric: position in `means` and `stds`.
    """
    figure = blank_figure(1.1 + 0.24 * len(methods))
    axes = figure.subplots()
    upper = axes.twiny()
    places = np.arange(len(methods))
    colors = [SAME if method.ours else GROUP_COLORS[6] for method in methods]
    axes.barh(places, [100 * method.stds[metric] for method in methods], height=0.62, color=colors)
    means = [100 * method.means[metric] for method in methods]
    upper.plot(means, places, "D", color=INK, markersize=4)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_yticks(places, [shortened(method.name, 34) for method in methods], parse_math=False)
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_fontweight("bold" if method.ours else "normal")
    axes.set_xlabel(f"bars: STD of {heading}, percent", parse_math=False)
    upper.set_xlabel(f"diamonds: mean {heading}, percent", parse_math=False)
    # A bar reaches half the width at most, where the diamonds of all but the worst methods begin.
    axes.set_xlim(0, 2 * max(100 * method.stds[metric] for method in methods) or 1)
    upper.set_xlim(0, 100)
    axes.grid(axis="x")
    return png(figure)


def std_radar(corners: Sequence[str], methods: Sequence[Spread]) -> bytes:
    """For each method a polygon with its STD of each metric from the center outwards: the smaller, the more even.

    A corner's scale ends at the largest STD of its metric, which is written there.

    Args:
        corners: the metrics, three or more.
        methods: up to 21 keep colors and strokes of their own.
    """
    figure = blank_figure(4.6)
    axes = figure.subplots()
    most = np.array([method.stds for method in methods]).max(axis=0)
    most = np.where(most > 0, most, 1)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(corners) + 1) / len(corners)
    x, y = np.cos(angles), np.sin(angles)
    for ring in (0.25, 0.5, 0.75, 1):
        axes.plot(ring * x, ring * y, color=GRID, linewidth=0.8, zorder=1)
    for corner, end, right, up in zip(corners, most, x, y, strict=False):
        side = "center" if abs(right) < 0.1 else "right" if right > 0 else "left"
        said = f"STD of {corner}, to {100 * end:.1f}"
        write(axes, 1.08 * right + 0.1 * np.sign(right), 1.08 * up + 0.05 * np.sign(up), said, fontsize=9, ha=side)
    for i, method in enumerate(methods):
        reach = np.append(np.array(method.stds) / most, method.stds[0] / most[0])
        color, stroke = GROUP_COLORS[i % 7], ("-", "--", ":")[i // 7 % 3]
        width = 2.2 if method.ours else 1.3
        axes.fill(reach * x, reach * y, color=color, alpha=0.12 if method.ours else 0.0)
        label = shortened(method.name, 30)
        axes.plot(reach * x, reach * y, stroke, color=color, linewidth=width, label=label, zorder=3)
    axes.set_aspect("equal")
    axes.set_axis_off()
    plain(figure.legend(loc="outside lower center", ncols=2, frameon=False).get_texts())
    return png(figure)
