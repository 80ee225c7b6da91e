"""Build the packaged example `glyphs` from Debian's font packages.

python -m intraformer_fast.bench.data.build --debs DIR --out FILE
"""

import argparse
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from intraformer_fast.data.dataset import pack_pictures
from intraformer_fast.files import atomic_path

from .classes import EMBEDDING, MIN_PICTURES, TEST, assign_fonts, choose_characters, keep_different, split_classes
from .embed import fit, gradient_cells
from .fonts import Font, list_fonts, unpack
from .render import Picture, draw_all
from .scripts import GROUPS

SEED = 0


def unlike_pinned(packages: Path) -> list[str]:
    """Names of the packages whose pinned file is missing from the folder `packages`, or has other contents."""
    present = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in packages.glob("*.deb")}
    listed = Path(__file__).with_name("packages.sha256").read_text().splitlines()
    pinned = [(name, digest) for digest, name in map(str.split, listed)]
    return [name.split("_")[0] for name, digest in pinned if present.get(name) != digest]


def render_classes(fonts: Sequence[Font], code_points: Sequence[int]) -> dict[int, list[tuple[str, Picture]]]:
    """For every character the pictures that its fonts draw of it, each after its package, in the order of the fonts."""
    drawn: defaultdict[int, list[tuple[str, Picture]]] = defaultdict(list)
    for font, task in zip(fonts, assign_fonts(fonts, code_points), strict=True):
        for point, picture in draw_all(font, task).items():
            drawn[point].append((font.package, picture))
    return drawn


def quantize(features: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Scale by one factor for all and round to int8; readers normalize each row, so the factor is not kept."""
    return np.rint(features * (127 / np.abs(features).max())).astype(np.int8)


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
    return assemble(np.stack(pictures), np.array(labels), np.array(packages), *np.array(classes).T)


def assemble(
    pictures: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    packages: npt.NDArray[np.str_],
    code_points: npt.NDArray[np.int64],
    class_groups: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[Any]]:
    """Split the classes, fit the embedding on its own share and embed the rest.

    Args:
        pictures: uint8 [N, 32, 32].
        labels: int64 [N], in [0, C).
        packages: [N], the package whose font drew the picture.
        code_points: int64 [C], the character of each class.
        class_groups: int64 [C], positions in GROUPS.
    """
    split = split_classes(class_groups, SEED)[labels]
    fitted, kept = split == EMBEDDING, split != EMBEDDING
    cells = gradient_cells(pictures)
    features = fit(cells[fitted], labels[fitted])(cells[kept])
    classes, new_labels = np.unique(labels[kept], return_inverse=True)
    package_names, package_ids = np.unique(packages[kept], return_inverse=True)
    return {
        "features": quantize(features),
        "labels": new_labels.astype(np.int16),
        "groups": class_groups[labels[kept]].astype(np.int8),
        "test": split[kept] == TEST,
        "pictures": pack_pictures(pictures[kept]),
        "packages": package_ids.astype(np.uint8),
        "code_points": code_points[classes].astype(np.int32),
        "group_names": np.array(GROUPS),
        "package_names": package_names,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m intraformer_fast.bench.data.build", description="Build the packaged example glyphs."
    )
    parser.add_argument("--debs", type=Path, required=True, help="folder of the downloaded .deb files")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args(arguments)
    others = unlike_pinned(options.debs)
    if others:
        print(f"the file will differ, as these packages are missing or not the pinned version: {', '.join(others)}")
    arrays: dict[str, Any] = build(options.debs)
    with atomic_path(options.out) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"{len(arrays['labels'])} samples, {len(arrays['code_points'])} classes: {options.out}")


if __name__ == "__main__":
    main()
