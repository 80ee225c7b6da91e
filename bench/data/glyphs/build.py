"""Build the packaged example `glyphs` from Debian's font packages.

python -m intraformer_fast.bench.data.glyphs.build --debs DIR --out FILE
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from intraformer_fast.data.dataset import pack_pictures
from intraformer_fast.files import atomic_path

from ..assemble import SEED, assemble, unlike_pinned
from ..embed import gradient_cells
from .classes import MIN_PICTURES, assign_fonts, choose_characters, keep_different
from .fonts import Font, list_fonts, unpack
from .render import Picture, draw_all
from .scripts import GROUPS

CHECKSUMS = Path(__file__).with_name("packages.sha256")


def render_classes(fonts: Sequence[Font], code_points: Sequence[int]) -> dict[int, list[tuple[str, Picture]]]:
    """For every character the pictures that its fonts draw of it, each after its package, in the order of the fonts."""
    drawn: defaultdict[int, list[tuple[str, Picture]]] = defaultdict(list)
    for font, task in zip(fonts, assign_fonts(fonts, code_points), strict=True):
        for point, picture in draw_all(font, task).items():
            drawn[point].append((font.package, picture))
    return drawn


def build(debs: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the example, from a folder of `.deb` files."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(debs, Path(folder))
        fonts = list_fonts(Path(folder), SEED)
        print(f"{len(fonts)} fonts", flush=True)
        characters = choose_characters(fonts)
        drawn = render_classes(fonts, [point for point, _ in characters])
    print(f"{sum(map(len, drawn.values()))} pictures of {len(characters)} characters", flush=True)

    classes: list[tuple[int, int]] = []
    samples: list[tuple[int, str, Picture]] = []
    for point, group in characters:
        kept = keep_different([picture for _, picture in drawn[point]])
        if len(kept) >= MIN_PICTURES:
            samples += [(len(classes), *drawn[point][i]) for i in kept]
            classes.append((point, group))
    labels, packages, pictures = zip(*samples, strict=True)
    return arrays_of(np.stack(pictures), np.array(labels), np.array(packages), *np.array(classes).T)


def arrays_of(
    pictures: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    packages: npt.NDArray[np.str_],
    code_points: npt.NDArray[np.int64],
    class_groups: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the file.

    Args:
        pictures: uint8 [N, 32, 32].
        labels: int64 [N], in [0, C).
        packages: [N], the package whose font drew the picture.
        code_points: int64 [C], the character of each class.
        class_groups: int64 [C], positions in GROUPS.
    """
    arrays, kept, classes = assemble(gradient_cells(pictures), labels, class_groups, GROUPS)
    package_names, package_ids = np.unique(packages[kept], return_inverse=True)
    return {
        **arrays,
        "pictures": pack_pictures(pictures[kept]),
        "packages": package_ids.astype(np.uint8),
        "code_points": code_points[classes].astype(np.int32),
        "package_names": package_names,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m intraformer_fast.bench.data.glyphs.build", description="Build the packaged example glyphs."
    )
    parser.add_argument("--debs", type=Path, required=True, help="folder of the downloaded .deb files")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args(arguments)
    others = unlike_pinned(CHECKSUMS, options.debs)
    if others:
        print(f"the file will differ, as these files are missing or not the pinned version: {', '.join(others)}")
    arrays: dict[str, Any] = build(options.debs)
    with atomic_path(options.out) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"{len(arrays['labels'])} samples, {len(arrays['code_points'])} classes: {options.out}")


if __name__ == "__main__":
    main()
