"""Files of features, labels and neighbors.

What is read is checked, sizes before memory is taken; what is written appears whole or not at all.

| what | suffix | contents |
| --- | --- | --- |
| features | `.npy` | float32 or float16 [N, d], memory-mapped |
| | `.bin` | learn-to-cluster `features/*.bin`: float32, row after row, no header; the width is not in the file |
| | `.parquet` | a column of float lists, one row per sample (extra `parquet`) |
| labels, groups | `.npy` | integers [N] |
| | `.meta` | learn-to-cluster `labels/*.meta`: one integer a line |
| neighbors | `.npz` | learn-to-cluster `knns/*.npz`: `data` [N, 2, k], ids and cosine distances |

learn-to-cluster: Yang et al., Learning to Cluster Faces on an Affinity Graph, CVPR 2019.
"""

from .features import read_features, write_features
from .labels import read_labels, write_labels
from .neighbors import read_neighbors, write_neighbors

__all__ = ["read_features", "read_labels", "read_neighbors", "write_features", "write_labels", "write_neighbors"]
