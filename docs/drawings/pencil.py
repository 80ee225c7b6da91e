"""What all drawings share: ink, boxes, arrows and notes."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).parent
INK, MUTED, LINE, CARD = "#1f2933", "#5f6c7b", "#8a96a3", "#f3f5f8"
NEAR_TO_FAR = ("#2f6fb0", "#5aa0a8", "#c9a23f", "#d9743a")
KEPT, LEFT_OUT = "#228833", "#cc3311"

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "svg.hashsalt": "intraformer-fast",
    }
)


def canvas(width: float, height: float) -> Any:
    """Axes in inches, the origin at the lower left."""
    figure, axes = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def save(axes: Any, name: str) -> None:
    axes.figure.savefig(
        FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="white"
    )
    plt.close(axes.figure)


def box(
    axes: Any,
    x: float,
    y: float,
    w: float,
    h: float,
    text: str,
    *,
    fill: str = CARD,
    ink: str = INK,
    size: float = 10,
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.07",
            fc=fill,
            ec=LINE,
            lw=1,
        )
    )
    axes.text(
        x + w / 2,
        y + h / 2,
        text,
        ha="center",
        va="center",
        color=ink,
        size=size,
        linespacing=1.35,
    )


def arrow(
    axes: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    dashed: bool = False,
    bend: float = 0.0,
    color: str = INK,
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, lw=1.2, color=color, shrinkA=2, shrinkB=2,
            linestyle=(0, (4, 2.5)) if dashed else "-", connectionstyle=f"arc3,rad={bend}",
        )
    )  # fmt: skip


def note(
    axes: Any,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 8.5,
    color: str = MUTED,
    ha: str = "center",
) -> None:
    axes.text(x, y, text, ha=ha, va="center", color=color, size=size, linespacing=1.35)
