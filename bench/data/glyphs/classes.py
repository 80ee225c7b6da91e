"""Which characters become classes, and which pictures each keeps."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .fonts import Font
from .render import Picture
from .scripts import GROUPS, SCRIPTS

MIN_PICTURES = 8  # a class with fewer is dropped
MAX_PICTURES = 60
MAX_FONTS = 160  # fonts tried for a class
ALIKE = 0.97  # cosine of two pictures above which the second is left out: one design under two names
WELL_COVERED = 0.9  # of the best covered character's fonts; the big scripts are thinned among these


def choose_characters(fonts: Sequence[Font]) -> list[tuple[int, int]]:
    """The characters that enough fonts draw, as (code point, group), script by script in code order."""
    coverage = Counter(point for font in fonts for point in font.code_points)
    chosen: list[tuple[int, int]] = []
    for script in SCRIPTS:
        points = sorted(point for point in script.code_points if coverage[point] >= MIN_PICTURES)
        if script.limit is not None and len(points) > script.limit:
            most = max(coverage[point] for point in points)
            well = [point for point in points if coverage[point] >= WELL_COVERED * most]
            points = [well[i] for i in np.linspace(0, len(well) - 1, script.limit).astype(int)]
        chosen += [(point, GROUPS.index(script.group)) for point in points]
    return chosen


def assign_fonts(fonts: Sequence[Font], code_points: Sequence[int]) -> list[list[int]]:
    """For every font the characters it is to draw: each character goes to the first MAX_FONTS fonts that have it."""
    tried: Counter[int] = Counter()
    tasks: list[list[int]] = []
    for font in fonts:
        task = sorted(point for point in code_points if point in font.code_points and tried[point] < MAX_FONTS)
        tried.update(task)
        tasks.append(task)
    return tasks


def keep_different(pictures: Sequence[Picture]) -> list[int]:
    """Positions of the first MAX_PICTURES pictures of a class that are not near copies of an earlier one kept."""
    if not pictures:
        return []
    vectors = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T
    kept: list[int] = []
    for i in range(len(pictures)):
        if len(kept) < MAX_PICTURES and not (cosine[i, kept] > ALIKE).any():
            kept.append(i)
    return kept
