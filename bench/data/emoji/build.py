"""Build the packaged example `emoji` from npm packages.

python -m intraformer_fast.bench.data.emoji.build --packages DIR --out FILE
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from intraformer_fast.files import atomic_path

from ..assemble import SEED, assemble, unlike_pinned
from .cells import cells
from .classes import MIN_DRAWINGS, draw_pictures
from .concepts import GROUPS, Concept, name_table, read_concepts, read_json
from .drawings import ICON_SETS, Drawing, all_sets, keep_unlike
from .views import views

HERE = Path(__file__).parent
CHECKSUMS = HERE / "packages.sha256"


def package_files(folder: Path) -> dict[str, Path]:
    """Where `npm pack` puts each package of `packages.txt`, by the package's name."""
    found = {}
    for line in (HERE / "packages.txt").read_text().splitlines():
        name, version = line.rsplit("@", 1)
        found[name] = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    return found


def read_all(packages: Mapping[str, Path]) -> tuple[list[Concept], Iterable[tuple[str, Iterable[tuple[str, Drawing]]]]]:
    """The concepts, and every set of drawings, see `drawings.all_sets`."""
    emojibase = packages["emojibase-data"]
    concepts = read_concepts(emojibase)
    tables = [read_json(packages[f"@iconify-json/{name}"], "package/chars.json") for name in ICON_SETS]
    names = name_table(concepts, tables, read_json(emojibase, "package/meta/unicode-names.json"))
    return concepts, all_sets(packages, names)


def build(
    concepts: Sequence[Concept], sets: Iterable[tuple[str, Iterable[tuple[str, Drawing]]]]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the example.

    Args:
        concepts: candidates for an identity.
        sets: name of each set of drawings, and its drawings with their code points; those of no concept are left out.
    """
    drawn: defaultdict[str, list[tuple[int, Drawing]]] = defaultdict(list)
    known = {concept.code_points for concept in concepts}
    set_names: list[str] = []
    for name, drawings in sets:
        kept = keep_unlike([(points, drawing) for points, drawing in drawings if points in known])
        print(f"{name}: {len(kept)} drawings", flush=True)
        for points, drawing in kept:
            drawn[points].append((len(set_names), drawing))
        set_names.append(name)

    chosen = [concept for concept in concepts if len(drawn[concept.code_points]) >= MIN_DRAWINGS]
    counts = [len(drawn[concept.code_points]) for concept in chosen]
    of_all = [one for concept in chosen for one in drawn[concept.code_points]]
    labels, position = draw_pictures(counts, SEED)
    which = np.cumsum([0, *counts[:-1]])[labels] + position
    print(f"{len(labels)} pictures of {len(chosen)} emoji", flush=True)

    pictures = views(np.stack([drawing for _, drawing in of_all]), which, SEED)
    arrays, kept_samples, classes = assemble(
        cells(pictures), labels, np.array([concept.group for concept in chosen]), GROUPS
    )
    return {
        **arrays,
        "sets": np.array([number for number, _ in of_all])[which[kept_samples]].astype(np.int8),
        "set_names": np.array(set_names),
        "class_names": np.array([chosen[i].label for i in classes]),
        "code_points": np.array([chosen[i].code_points for i in classes]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m intraformer_fast.bench.data.emoji.build", description="Build the packaged example emoji."
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder of the files that npm pack downloaded")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args(arguments)
    files = package_files(options.packages)
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)}: not there; the README tells how to fetch the packages")
    others = unlike_pinned(CHECKSUMS, options.packages)
    if others:
        print(f"the file will differ, as these files are not the pinned ones: {', '.join(others)}")
    arrays: dict[str, Any] = build(*read_all(files))
    with atomic_path(options.out) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"{len(arrays['labels'])} samples, {len(arrays['class_names'])} classes: {options.out}")


if __name__ == "__main__":
    main()
