"""A data set in memory: features, labels, groups and, where it has them, pictures."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from intraformer_fast.errors import DataError

from .checks import check_same_length

PICTURE_SIZE = 32
_MARGIN = 2  # pixels on each side that are always empty, and not stored
_INNER = PICTURE_SIZE - 2 * _MARGIN
_SHIFTS = np.array([6, 4, 2, 0], dtype=np.uint8)  # four pixels a byte, the leftmost in the highest bits


def pack_pictures(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pack gray pictures [N, 32, 32] with an empty margin of 2 pixels into four gray levels: uint8 [N, 28, 7]."""
    inner = pictures[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    levels = np.rint(inner / 85).astype(np.uint8)
    shifted = levels.reshape(len(pictures), _INNER, _INNER // 4, 4) << _SHIFTS
    return np.bitwise_or.reduce(shifted, axis=-1)


def unpack_pictures(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The inverse of `pack_pictures`, gray levels 0, 85, 170 and 255 (ink): uint8 [N, 28, 7] -> uint8 [N, 32, 32]."""
    levels = (packed[..., None] >> _SHIFTS) & 3
    inner = (levels * np.uint8(85)).reshape(len(packed), _INNER, _INNER)
    return np.pad(inner, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with their features and what is known of them.

    Attributes:
        name: what the set is called in reports.
        features: float32 [N, d], L2-normalized.
        labels: int64 [N], the identity of each sample.
        groups: int64 [N], positions in `group_names`, or None.
        group_names: one name for each group.
        class_names: the name of each label (`class_names[label]`), or None.
        packed_pictures: uint8 [N, 28, 7], four pixels a byte (`unpack_pictures`), or None.

    Raises:
        DataError: the arrays are not of the same length.
    """

    name: str
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64] | None = None
    group_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    packed_pictures: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        check_same_length(
            features=self.features, labels=self.labels, groups=self.groups, packed_pictures=self.packed_pictures
        )

    def __len__(self) -> int:
        return len(self.features)

    def pictures(self, ids: npt.ArrayLike | None = None) -> npt.NDArray[np.uint8]:
        """The pictures of the samples `ids` (all when None): uint8 [M, 32, 32], 255 = ink.

        They are unpacked here, 1 KiB each: ask for those to be shown.

        Raises:
            DataError: the set has no pictures.
            IndexError: an id is out of range.
        """
        if self.packed_pictures is None:
            raise DataError(f"the data set {self.name} has no pictures")
        packed = self.packed_pictures if ids is None else self.packed_pictures[np.asarray(ids, dtype=np.int64)]
        return unpack_pictures(packed)

    def picture(self, i: int) -> npt.NDArray[np.uint8]:
        """The picture of sample `i`: uint8 [32, 32], 255 = ink. Raises as `pictures` does."""
        return self.pictures([i])[0]

    def subset(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> "Dataset":
        """The samples at `index`, a mask [N] or ids in the order wanted; names stay as they are."""
        return Dataset(
            name=self.name,
            features=self.features[index],
            labels=self.labels[index],
            groups=None if self.groups is None else self.groups[index],
            group_names=self.group_names,
            class_names=self.class_names,
            packed_pictures=None if self.packed_pictures is None else self.packed_pictures[index],
        )
