"""Final clusters from edge probabilities."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from intraformer_fast.graph import rules
from intraformer_fast.graph.communities import communities
from intraformer_fast.graph.table import SparseEdges, neighbor_table

LINK_RULES: Mapping[str, Callable[..., NDArray[Any]]] = {
    "intimacy": rules.intimacy,
    "density": rules.density,
    "mutual": rules.mutual,
    "communities": communities,
    "components": rules.components,
}
"""The rules by name; each docstring says what the rule does and which options it takes."""


@overload
def link(
    neighbors: Tensor,
    similarity: ArrayLike | Tensor,
    probability: ArrayLike | Tensor,
    *,
    rule: str = ...,
    threshold: float = ...,
    **options: Any,
) -> Tensor: ...
@overload
def link(
    neighbors: ArrayLike,
    similarity: ArrayLike | Tensor,
    probability: ArrayLike | Tensor,
    *,
    rule: str = ...,
    threshold: float = ...,
    **options: Any,
) -> NDArray[np.int64]: ...
def link(
    neighbors: ArrayLike | Tensor,
    similarity: ArrayLike | Tensor,
    probability: ArrayLike | Tensor,
    *,
    rule: str = "intimacy",
    threshold: float = 0.5,
    **options: Any,
) -> NDArray[np.int64] | Tensor:
    """Cluster samples by the edges of a neighbor graph that are probable enough.

    Rules, each described in full in `rules.py` and `communities.py`:

    - "intimacy" (default): kept edges whose ends share most of their kept neighbors; option `intimacy_threshold`
      (default 0.65).
    - "density": each sample joins its nearest neighbor of higher confidence, if it keeps that edge.
    - "mutual": edges kept by both ends.
    - "communities": modularity or map-equation communities of the symmetrized probabilities; options `method`
      ("louvain", "leiden", "infomap"), `resolution`, `symmetrize` ("min", "mean", "agreement"), `seed`.
    - "components": edges kept by either end.

    Memory grows with the number of edges, never with its square or that of the samples.

    Args:
        neighbors: integer [N, n], as `knn_graph` gives it. Padding (-1) and a sample's own id are no edges.
        similarity: floating [N, n]; only "density" uses it.
        probability: floating [N, n] in [0, 1], that neighbors[i, j] is of the class of sample i.
        rule: a name out of `LINK_RULES`.
        threshold: an edge is kept when its probability is greater than this; in [0, 1], default 0.5.
        **options: of the rule.

    Returns:
        labels int64 [N], numbered from 0 in the order in which clusters first appear; a sample that nothing links has a
        label of its own. A torch tensor on the device of `neighbors` where that is one, a numpy array otherwise.

    Raises:
        TypeError: wrong dtypes.
        ValueError: unknown rule, an option the rule does not take, an option or threshold out of range, wrong shapes.
        DataError: an entry of the arrays that cannot be, with its row.
        MissingDependencyError: the package "communities" needs is not installed.
    """
    _check_options(rule, threshold, options)
    found = LINK_RULES[rule](neighbor_table(neighbors, similarity, probability), threshold, **options)
    labels = _in_order_of_appearance(found)
    return torch.from_numpy(labels).to(neighbors.device) if isinstance(neighbors, Tensor) else labels


def link_edges(
    edges: SparseEdges, *, rule: str = "intimacy", threshold: float = 0.5, **options: Any
) -> NDArray[np.int64]:
    """As `link`, of edges alone: the same labels where all edges above the rule's own threshold are there.

    Raises:
        As `link`; ValueError where the rule is "density", which needs what was not kept too, or the edges were cut higher.
    """
    _check_options(rule, threshold, options)
    if rule == "density":
        raise ValueError(
            "rule 'density' needs the similarity of every neighbor, and only kept edges are there: choose another rule, or "
            "`link` with whole tables"
        )
    return _in_order_of_appearance(LINK_RULES[rule](edges, threshold, **options))


def edge_floor(rule: str, threshold: float, options: Mapping[str, Any]) -> float:
    """The probability up to which `link_edges` by this rule needs no edge."""
    _check_options(rule, threshold, options)
    by_both_ends = options.get("symmetrize", "min") == "min"
    return threshold if rule != "communities" or by_both_ends else 0.0


def _check_options(rule: str, threshold: float, options: Mapping[str, Any]) -> None:
    if rule not in LINK_RULES:
        raise ValueError(f"rule must be one of {', '.join(LINK_RULES)}, got {rule!r}")
    accepted = [
        name
        for name, parameter in inspect.signature(LINK_RULES[rule]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    foreign = sorted(options.keys() - set(accepted))
    if foreign:
        takes = f"takes {', '.join(accepted)}" if accepted else "takes no options but threshold"
        raise ValueError(f"rule {rule!r} has no option {', '.join(foreign)}: it {takes}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")


def _in_order_of_appearance(labels: NDArray[Any]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
