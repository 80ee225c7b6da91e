"""Data sets and file formats."""

from .checks import check_features, check_same_length
from .dataset import Dataset
from .examples import EXAMPLES, load_example
from .formats import (
    read_features,
    read_labels,
    read_neighbors,
    write_features,
    write_labels,
    write_neighbors,
)
from .normalize import unit_rows
from .splits import split_identities
from .synthetic import synthetic

__all__ = [
    "EXAMPLES",
    "Dataset",
    "check_features",
    "check_same_length",
    "load_example",
    "read_features",
    "read_labels",
    "read_neighbors",
    "split_identities",
    "synthetic",
    "unit_rows",
    "write_features",
    "write_labels",
    "write_neighbors",
]
