"""What benchmarks show: ratios, rooflines, growth, and a score over a setting."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .canvas import GROUP_COLORS, INK, MUTED, SAME, blank_figure, plain, png, shortened, write


def growth(rows: Sequence[Mapping[str, Any]], stages: Sequence[str], extrapolated: Mapping[int, float]) -> bytes:
    """Seconds (logarithmic) and memory over the number of samples; what was not run is hollow and dashed.

    Args:
        rows: by rising `samples`, each with `seconds`, a number a stage, `anonymous_bytes` and `resident_bytes`.
        stages: parts of the seconds, drawn too.
        extrapolated: seconds by number of samples.
    """
    figure = blank_figure(5.2)
    time, memory = figure.subplots(2, sharex=True)
    samples = [row["samples"] for row in rows]
    for name, color in zip(("seconds", *stages), GROUP_COLORS, strict=False):
        label = "all" if name == "seconds" else name
        time.plot(samples, [row[name] for row in rows], "o-", color=color, linewidth=1.5, markersize=3, label=label)
    if extrapolated:
        beyond = {samples[-1]: rows[-1]["seconds"], **extrapolated}
        time.plot(
            *zip(*beyond.items(), strict=True),
            "o--",
            color=GROUP_COLORS[0],
            fillstyle="none",
            markevery=slice(1, None),  # the first was run
            label="extrapolated",
        )
    for (name, label), color in zip(
        (("resident_bytes", "with mapped files"), ("anonymous_bytes", "its own")),
        GROUP_COLORS,
        strict=False,
    ):
        memory.plot(samples, [row[name] / 2**20 for row in rows], "o-", color=color, markersize=3, label=label)
    time.set_yscale("log")
    memory.set_ylim(bottom=0)
    for axes, name in ((time, "seconds"), (memory, "peak MiB")):
        axes.set_xscale("log")
        axes.set_ylabel(name)
        axes.grid(axis="y")
        plain(axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False).get_texts())
    memory.set_xlabel("samples")
    return png(figure)


def speedups(cases: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> bytes:
    """For each case a bar a baseline, from even to how many times faster ours is; logarithmic, to the left where ours is slower.

    Args:
        cases: of each its name, and by baseline the baseline's time over ours, above 0.
    """
    names = list(dict.fromkeys(name for _, bars in cases for name, _ in bars))
    count = sum(len(bars) for _, bars in cases)
    figure = blank_figure(0.8 + 0.17 * count + 0.3 * len(cases) + 0.2 * math.ceil(len(names) / 2))
    axes = figure.subplots()
    ends = [0.5, 2.0, *(ratio for _, bars in cases for _, ratio in bars)]
    low, high = min(ends) / 1.25, max(ends) * 1.6
    top = 0.0
    handles: dict[str, Any] = {}
    for case, bars in cases:
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # the line of "even" stops at a name
        write(axes, low, top, shortened(case), fontsize=8.5, bbox=paper)
        for i, (name, ratio) in enumerate(bars):
            color = GROUP_COLORS[names.index(name) % len(GROUP_COLORS)]
            place = top + 1 + i
            handles[name] = axes.barh(place, ratio - 1, left=1, height=0.8, color=color)
            write(
                axes,
                ratio * (1.05 if ratio >= 1 else 0.95),
                place,
                f"{ratio:.2f}",
                fontsize=7.5,
                ha="left" if ratio >= 1 else "right",
            )
        top += len(bars) + 1.8
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(top - 1.2, -0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("how many times faster ours is")
    axes.grid(axis="x")
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=2, frameon=False, handlelength=1.2
    )
    plain(legend.get_texts())
    return png(figure)


class Point(NamedTuple):
    """One mark of `roofline`: its series, operations a byte, operations a second, and whether it is filled."""

    series: str
    intensity: float
    rate: float
    filled: bool = True


def roofline(
    heading: str, peaks: Mapping[str, float], bandwidths: Mapping[str, float], points: Sequence[Point], marks: str
) -> bytes:
    """Operations a second over operations a byte, both logarithmic, under what the machine can do.

    Args:
        heading: what the marks are; it stands in the picture, so that none is shown without it.
        peaks: operations a second, by name.
        bandwidths: bytes a second, by name.
        points: at most seven series have a color of their own.
        marks: what a hollow mark is; empty where there is none.
    """
    legend = len(peaks) + len(bandwidths) + len({point.series for point in points}) + bool(marks)
    figure = blank_figure(2.9 + 0.2 * legend)
    axes = figure.subplots()
    top = max(peaks.values())
    left = min([point.intensity for point in points] + [0.25 * top / max(bandwidths.values())]) / 2
    right = max([point.intensity for point in points] + [4 * top / min(bandwidths.values())]) * 2
    x = np.geomspace(left, right, 200)
    strokes = ("-", "--", ":")
    for i, (name, bandwidth) in enumerate(bandwidths.items()):
        label = f"{name}, {_rate(bandwidth)}B/s"
        axes.plot(x, np.minimum(bandwidth * x, top), strokes[i % 3], color=INK, linewidth=1.2, label=label)
    for i, (name, peak) in enumerate(peaks.items()):
        label = f"{name}, {_rate(peak)}FLOP/s"
        axes.axhline(peak, linestyle=strokes[i % 3], color=MUTED, linewidth=1.2, label=label)
    for i, series in enumerate(dict.fromkeys(point.series for point in points)):
        color = GROUP_COLORS[i % len(GROUP_COLORS)]
        for filled in (True, False):
            of_kind = [point for point in points if point.series == series and point.filled == filled]
            axes.plot(
                [point.intensity for point in of_kind],
                [point.rate for point in of_kind],
                "o",
                color=color,
                fillstyle="full" if filled else "none",
                markersize=5,
                label=series if filled else None,
            )
    if marks:
        axes.plot([], [], "o", color=MUTED, fillstyle="none", markersize=5, label=f"hollow: {marks}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    rates = [point.rate for point in points] + list(peaks.values())
    axes.set_ylim(10 ** math.floor(math.log10(min(rates))), 10 ** math.ceil(math.log10(1.05 * max(rates))))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter("")  # decades are labelled, and nothing else
    axes.set_xlabel("floating-point operations a byte, the least that are needed")
    axes.set_ylabel("FLOP/s")
    axes.set_title(heading, fontsize=9, color=INK, parse_math=False, wrap=True)
    axes.grid()
    plain(figure.legend(loc="outside lower center", ncols=1, frameon=False, handlelength=1.6).get_texts())
    return png(figure)


def sweep(axis: str, x: Sequence[float], panels: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """One panel above the other, each over the same numbers, which stand at even distances.

    Args:
        axis: what the numbers are, below them.
        x: the numbers [p], rising.
        panels: by what is drawn, in [0, 1], its values and their spreads [p], drawn as percent.
    """
    figure = blank_figure(0.6 + 1.9 * len(panels))
    places = range(len(x))
    for axes, (name, values) in zip(
        figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0], panels.items(), strict=True
    ):
        middles, spreads = ([100 * number for number in numbers] for numbers in zip(*values, strict=True))
        axes.errorbar(places, middles, yerr=spreads, fmt="o-", color=SAME, linewidth=1.5, markersize=4, capsize=3)
        axes.set_ylabel(f"{name}, percent", parse_math=False)
        axes.grid(axis="y")
    axes.set_xticks(places, [f"{number:g}" for number in x])
    axes.set_xlabel(axis, parse_math=False)
    return png(figure)


def _rate(value: float) -> str:
    """With three digits and the prefix of its unit."""
    factor, prefix = next((f, p) for f, p in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if value >= f or p == "G")
    return f"{value / factor:.3g} {prefix}"
