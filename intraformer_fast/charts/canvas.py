"""What all charts share: size, colors, the figure and its PNG.

Drawn on white, for any page. Sizes suit a column of 360 to 560 CSS pixels, so that the text stays readable on a phone.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from intraformer_fast.errors import MissingDependencyError

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

LONGEST_NAME = 54
"""Characters of a name in a line of its own; those of a legend share it."""


def blank_figure(height: float) -> "Figure":
    """An empty figure of the common width, `height` inches high.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        # Without pyplot there is no global state, no window, and nothing to close.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plots", "A report with charts") from error
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def png(figure: "Figure") -> bytes:
    """Axes and grids in the common style, then the PNG: the same content gives the same bytes."""
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
        # No version of matplotlib in the file.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write(axes: "Axes", x: float, y: float, text: str, **options: Any) -> None:
    """A line of text at a place of the data, centered on its height."""
    axes.text(x, y, text, color=INK, va="center", parse_math=False, **options)


def plain(texts: Sequence[Any]) -> None:
    """A name may hold a dollar sign, which would start a formula."""
    for text in texts:
        text.set(parse_math=False, fontsize=8.5, color=INK)


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """The name, cut off where it is too long."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
