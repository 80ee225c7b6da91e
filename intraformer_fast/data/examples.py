"""Data sets that come with the package."""

from pathlib import Path

import numpy as np

from .dataset import Dataset

EXAMPLES = ("glyphs", "emoji")
SPLITS = ("train", "test", "all")


def load_example(name: str, split: str = "train") -> Dataset:
    """Load a packaged data set.

    `glyphs`: 43,809 pictures of 1,201 characters in hundreds of fonts, grouped by script (see `glyphs.md` beside this).
    `emoji`: 36,211 pictures of 1,109 emoji in 15 styles of drawing, grouped by what they show; no pictures (see `emoji.md`).
    The classes of `train` and `test` are disjoint, and both are disjoint from those the features were fitted on.

    Args:
        name: one of EXAMPLES.
        split: one of SPLITS.

    Raises:
        ValueError: there is no such example or split; the message lists what there is.
    """
    if name not in EXAMPLES:
        raise ValueError(f"there is no example {name!r}; there is: {', '.join(EXAMPLES)}")
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; there is: {', '.join(SPLITS)}")
    with np.load(Path(__file__).with_name(f"{name}.npz"), allow_pickle=False) as arrays:
        features = arrays["features"].astype(np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        # A class of the glyphs is a character and has no other name.
        names = map(chr, arrays["code_points"].tolist()) if name == "glyphs" else arrays["class_names"].tolist()
        dataset = Dataset(
            name=name,
            features=features,
            labels=arrays["labels"].astype(np.int64),
            groups=arrays["groups"].astype(np.int64),
            group_names=tuple(arrays["group_names"].tolist()),
            class_names=tuple(names),
            packed_pictures=arrays.get("pictures"),
        )
        test = arrays["test"]
    if split == "all":
        return dataset
    return dataset.subset(test if split == "test" else ~test)
