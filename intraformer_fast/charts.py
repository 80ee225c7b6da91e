"""The pictures of a report, as PNG bytes.

Drawn on white, for any page. Sizes suit a column of 360 to 560 CSS pixels, so that the text stays readable on a phone.
"""

import io
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6
"""Inches, or 331 points: in a column of 360 CSS pixels, text of 9 points is 10 pixels high."""

DPI = 220
INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#e3e7ec"
SAME, DIFFERENT = "#4477aa", "#ee7733"

# Paul Tol's "bright" scheme: distinct to the color-blind.
GROUP_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
# From the eighth group on the colors come again, hatched.
HATCHES = ("", "////", "....", "xxxx")

HISTOGRAM_BINS = 50
LONGEST_NAME = 54
"""Characters of a name in a line of its own; those of a legend share it."""

TILE = 64
"""Side of a picture in a sprite, in pixels: twice that of the pictures of a data set."""


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
    labels = [*map(_shortened, groups), "mean ± STD"]
    legend_columns = max(1, min(3, LONGEST_NAME // (4 + max(map(len, labels)))))
    legend_rows = math.ceil(len(labels) / legend_columns)
    figure = _figure(0.75 + 0.105 * block * len(methods) + 0.2 * legend_rows)
    axes = figure.subplots()
    handles: list[Any] = []
    for i, method in enumerate(methods):
        top = i * block
        values = 100 * np.asarray(method.values)
        _text(axes, 0, top, _shortened(method.name), fontsize=9, weight="bold" if method.ours else "normal")
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
        _text(axes, 0 if at_left else 100, last, statistics, fontsize=8, ha="left" if at_left else "right")
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
    axes.set_xlabel(_shortened(heading), parse_math=False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False, handlelength=1.2
    )
    _plain(legend.get_texts())
    return _png(figure)


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
    figure = _figure(2.9)
    axes = figure.subplots()
    for values, color, name in ((different, DIFFERENT, "different identity"), (same, SAME, "same identity")):
        if values.size:
            shares = 100 * np.histogram(values, edges)[0] / values.size
            axes.stairs(shares, edges, color=color, linewidth=1.4)
            label = f"{name} ({values.size:,} pairs)"
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.35, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(_shortened(quantity), parse_math=False)
    axes.set_ylabel("% of the pairs of a kind")
    axes.grid(axis="y")
    if both.size:
        _plain(figure.legend(loc="outside upper left", frameon=False).get_texts())
    return _png(figure)


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
    figure = _figure(0.6 + 2.2 * len(panels))
    for axes, (name, found) in zip(figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0], panels, strict=True):
        for i, (key, values) in enumerate(found.items()):
            style = "--" if key.startswith("cosine") else "o-"
            axes.plot(
                epochs,
                values,
                style,
                color=GROUP_COLORS[i % 6],
                linewidth=1.5,
                markersize=3,
                label=_shortened(key, LONGEST_NAME // 3),
            )
        axes.set_ylabel(name)
        axes.grid(axis="y")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=1.2)
        _plain(legend.get_texts())
    axes.set_xlabel("epoch")
    return _png(figure)


def growth(rows: Sequence[Mapping[str, Any]], stages: Sequence[str], extrapolated: Mapping[int, float]) -> bytes:
    """Seconds (logarithmic) and memory over the number of samples; what was not run is hollow and dashed.

    Args:
        rows: by rising `samples`, each with `seconds`, a number a stage, `anonymous_bytes` and `resident_bytes`.
        stages: parts of the seconds, drawn too.
        extrapolated: seconds by number of samples.
    """
    figure = _figure(5.2)
    time, memory = figure.subplots(2, sharex=True)
    samples = [row["samples"] for row in rows]
    for name, color in zip(("seconds", *stages), GROUP_COLORS, strict=False):
        label = "all" if name == "seconds" else name
        time.plot(samples, [row[name] for row in rows], "o-", color=color, linewidth=1.5, markersize=3, label=label)
    if extrapolated:
        beyond = {samples[-1]: rows[-1]["seconds"], **extrapolated}
        time.plot(
            *zip(*beyond.items(), strict=True), "o--", color=GROUP_COLORS[0], fillstyle="none", label="extrapolated"
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
        _plain(axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False).get_texts())
    memory.set_xlabel("samples")
    return _png(figure)


def speedups(cases: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> bytes:
    """For each case a bar a baseline, from even to how many times faster ours is; logarithmic, to the left where ours is slower.

    Args:
        cases: of each its name, and by baseline the baseline's time over ours, above 0.
    """
    names = list(dict.fromkeys(name for _, bars in cases for name, _ in bars))
    count = sum(len(bars) for _, bars in cases)
    figure = _figure(0.8 + 0.17 * count + 0.3 * len(cases) + 0.2 * math.ceil(len(names) / 2))
    axes = figure.subplots()
    ends = [0.5, 2.0, *(ratio for _, bars in cases for _, ratio in bars)]
    low, high = min(ends) / 1.25, max(ends) * 1.6
    top = 0.0
    handles: dict[str, Any] = {}
    for case, bars in cases:
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # the line of "even" stops at a name
        _text(axes, low, top, _shortened(case), fontsize=8.5, bbox=paper)
        for i, (name, ratio) in enumerate(bars):
            color = GROUP_COLORS[names.index(name) % len(GROUP_COLORS)]
            place = top + 1 + i
            handles[name] = axes.barh(place, ratio - 1, left=1, height=0.8, color=color)
            _text(
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
    _plain(legend.get_texts())
    return _png(figure)


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
    figure = _figure(2.9 + 0.2 * legend)
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
    _plain(figure.legend(loc="outside lower center", ncols=1, frameon=False, handlelength=1.6).get_texts())
    return _png(figure)


def sweep(axis: str, x: Sequence[float], panels: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """One panel above the other, each over the same numbers, which stand at even distances.

    Args:
        axis: what the numbers are, below them.
        x: the numbers [p], rising.
        panels: by what is drawn, in [0, 1], its values and their spreads [p], drawn as percent.
    """
    figure = _figure(0.6 + 1.9 * len(panels))
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
    return _png(figure)


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
    figure = _figure(1.1 + 0.24 * len(methods))
    axes = figure.subplots()
    upper = axes.twiny()
    places = np.arange(len(methods))
    colors = [SAME if method.ours else GROUP_COLORS[6] for method in methods]
    axes.barh(places, [100 * method.stds[metric] for method in methods], height=0.62, color=colors)
    means = [100 * method.means[metric] for method in methods]
    upper.plot(means, places, "D", color=INK, markersize=4)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_yticks(places, [_shortened(method.name, 34) for method in methods], parse_math=False)
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_fontweight("bold" if method.ours else "normal")
    axes.set_xlabel(f"bars: STD of {heading}, percent", parse_math=False)
    upper.set_xlabel(f"diamonds: mean {heading}, percent", parse_math=False)
    # A bar reaches half the width at most, where the diamonds of all but the worst methods begin.
    axes.set_xlim(0, 2 * max(100 * method.stds[metric] for method in methods) or 1)
    upper.set_xlim(0, 100)
    axes.grid(axis="x")
    return _png(figure)


def std_radar(corners: Sequence[str], methods: Sequence[Spread]) -> bytes:
    """For each method a polygon with its STD of each metric from the center outwards: the smaller, the more even.

    A corner's scale ends at the largest STD of its metric, which is written there.

    Args:
        corners: the metrics, three or more.
        methods: up to 21 keep colors and strokes of their own.
    """
    figure = _figure(4.6)
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
        _text(axes, 1.08 * right + 0.1 * np.sign(right), 1.08 * up + 0.05 * np.sign(up), said, fontsize=9, ha=side)
    for i, method in enumerate(methods):
        reach = np.append(np.array(method.stds) / most, method.stds[0] / most[0])
        color, stroke = GROUP_COLORS[i % 7], ("-", "--", ":")[i // 7 % 3]
        width = 2.2 if method.ours else 1.3
        axes.fill(reach * x, reach * y, color=color, alpha=0.12 if method.ours else 0.0)
        label = _shortened(method.name, 30)
        axes.plot(reach * x, reach * y, stroke, color=color, linewidth=width, label=label, zorder=3)
    axes.set_aspect("equal")
    axes.set_axis_off()
    _plain(figure.legend(loc="outside lower center", ncols=2, frameon=False).get_texts())
    return _png(figure)


def sprite(pictures: npt.NDArray[np.uint8]) -> tuple[bytes, list[tuple[int, int]]]:
    """All pictures of a contact sheet in one, dark on white.

    Args:
        pictures: uint8 [m, h, w], 255 = ink, m at least 1.

    Returns:
        The PNG, and the left upper corner (x, y) of each picture in it; a picture is TILE pixels wide and high.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("pillow", "plots", "A report with pictures") from error
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    corners = [(TILE * (i % columns), TILE * (i // columns)) for i in range(len(pictures))]
    sheet = Image.new("L", (TILE * columns, TILE * rows), 255)
    for picture, corner in zip(255 - pictures, corners, strict=True):
        sheet.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC), corner)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), corners


def _figure(height: float) -> "Figure":
    try:
        # Without pyplot there is no global state, no window, and nothing to close.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plots", "A report with charts") from error
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _png(figure: "Figure") -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
        axes.set_axisbelow(True)
        axes.tick_params(colors=MUTED, labelsize=8, length=3)
        for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
            line.set(color=GRID, linewidth=0.8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK, fontsize=9)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters the font lacks come out as boxes; the tables of the page have them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        # No version of matplotlib in the file: the same content gives the same bytes.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _text(axes: "Axes", x: float, y: float, text: str, **options: Any) -> None:
    axes.text(x, y, text, color=INK, va="center", parse_math=False, **options)


def _plain(texts: Sequence[Any]) -> None:
    """A name may hold a dollar sign, which would start a formula."""
    for text in texts:
        text.set(parse_math=False, fontsize=8.5, color=INK)


def _shortened(name: str, longest: int = LONGEST_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _rate(value: float) -> str:
    """With three digits and the prefix of its unit."""
    factor, prefix = next((f, p) for f, p in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if value >= f or p == "G")
    return f"{value / factor:.3g} {prefix}"


def _is(key: str, kind: str) -> bool:
    return key == kind or key.endswith(f"_{kind}")


def _number(value: Any) -> float:
    """The value as a float; NaN where it is none, or not finite."""
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    return math.nan
