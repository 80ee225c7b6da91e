"""The pictures of reports and benchmarks, as PNG bytes."""

from .benchmarks import Point, growth, roofline, speedups, sweep
from .canvas import DIFFERENT, GROUP_COLORS, INK, SAME
from .groups import MethodBars, Spread, group_bars, std_and_mean, std_radar
from .sprite import TILE, sprite
from .training import curves, edge_histogram, loss_curves

__all__ = [
    "DIFFERENT",
    "GROUP_COLORS",
    "INK",
    "SAME",
    "TILE",
    "MethodBars",
    "Point",
    "Spread",
    "curves",
    "edge_histogram",
    "group_bars",
    "growth",
    "loss_curves",
    "roofline",
    "speedups",
    "sprite",
    "std_and_mean",
    "std_radar",
    "sweep",
]
