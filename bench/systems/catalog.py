"""The systems by name, and their hyper-parameters: as published, at a size for a small data set on a CPU, and for a test."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from .ada_nets import AdaNetsSpace
from .average_linkage import AverageLinkage
from .chinese_whispers import ChineseWhispers
from .clusformer import Clusformer
from .components import Components
from .dbscan import Dbscan
from .fc_es import FcEs
from .gcn_v import GcnV
from .gcn_ve import GcnVE
from .hdbscan import Hdbscan
from .intraformer import IntraformerSystem
from .kmeans import KMeans
from .knn_infomap import KnnInfomap
from .ltc import Ltc
from .omhc import Omhc
from .our_linking import OurLinking
from .protocol import System
from .rank_cutoff import RankCutoff
from .star_fc import StarFc

Kind: TypeAlias = Literal["ours", "trained", "untrained"]


@dataclass(frozen=True)
class Entry:
    """A system of the comparison.

    Attributes:
        title: in tables.
        kind: "untrained" systems choose settings on the validation identities all the same.
        system: its hyper-parameters.
        apart: what differs from the published form, in words; empty where nothing does.
    """

    title: str
    kind: Kind
    system: System
    apart: str = ""


PUBLISHED: dict[str, Entry] = {
    "intraformer": Entry(
        "Intraformer, our best form",
        "ours",
        IntraformerSystem("paper", {"num_subclusters": 1, "tokens": "similarities"}, {"fairness_weight": 0.25}),
        "k = 1, tokens of similarities, fairness weight 0.25",
    ),
    "intraformer-paper": Entry("Intraformer, the paper's form", "ours", IntraformerSystem("paper"), "n is the graph's"),
    "omhc": Entry("OMHC", "trained", Omhc()),
    "star-fc": Entry("STAR-FC", "trained", StarFc()),
    "clusformer": Entry("Clusformer", "trained", Clusformer()),
    "gcn-ve": Entry("GCN-V/E", "trained", GcnVE(), "k is the graph's, not 160"),
    "gcn-v": Entry("GCN-V", "trained", GcnV()),
    "ltc": Entry("LTC", "trained", Ltc()),
    "ada-nets": Entry("Ada-NETS, its structure space", "untrained", AdaNetsSpace(), "the space alone, nothing learned"),
    "fc-es": Entry("FC-ES", "untrained", FcEs()),
    "infomap": Entry("k-NN + Infomap", "untrained", KnnInfomap()),
    "omhc-our-linking": Entry("OMHC, our linking", "trained", OurLinking(Omhc()), "the linking"),
    "clusformer-our-linking": Entry("Clusformer, our linking", "trained", OurLinking(Clusformer()), "the linking"),
    "rank-cutoff": Entry("rank cut-off, our linking", "untrained", RankCutoff()),
    "chinese-whispers": Entry("Chinese Whispers", "untrained", ChineseWhispers()),
    "hdbscan": Entry("HDBSCAN", "untrained", Hdbscan()),
    "dbscan": Entry("DBSCAN", "untrained", Dbscan()),
    "average-linkage": Entry("average linkage", "untrained", AverageLinkage()),
    "k-means": Entry("k-means, true number given", "untrained", KMeans()),
    "components": Entry("connected components", "untrained", Components()),
}

_ADAM: dict[str, Any] = {"learning_rate": 1e-3, "momentum": None}
_VERTEX: dict[str, Any] = {**_ADAM, "hidden": 256, "epochs": 10, "batch": 512}

# What is changed for a small data set on a CPU, each with what the report says of it. AdamW takes fewer steps than SGD.
SMALL: dict[str, tuple[dict[str, Any], str]] = {
    "intraformer": (
        {"preset": "small", "model": {}, "training": {}},
        "k = 1, tokens of similarities, fairness weight 0.25; width 64, 2 layers, 3 epochs",
    ),
    "intraformer-paper": (
        {"preset": "small-paper", "model": {}, "training": {}},
        "width 128 (512), 2 layers (6), n 80 (256), 1 epoch (10) at 1e-3 (1e-4), fairness weight 0.25 (1)",
    ),
    "omhc": (
        {"heads": 4, "ffn": 1024, "epochs": 3, "batch": 64, "learning_rate": 1e-3},
        "width 128 (256), 4 heads (8), FFN 1024 (2048), 3 epochs (10) at 1e-3 (1e-4)",
    ),
    "star-fc": (
        {
            **_ADAM,
            "learning_rate": 3e-3,
            "hidden": 256,
            "near": 150,
            "drawn": 130,
            "subgraphs": 100,
            "edges": 8192,
            "repeats": 12,
        },
        "width 256 (512), 130 of 150 classes a subgraph (1300 of 1500), 100 subgraphs, 12 steps of AdamW with 8,192 edges on each",
    ),
    "clusformer": (
        {"width": 96, "layers": 2, "epochs": 3, "learning_rate": 1e-3},
        "width 96 (336), 2+2 layers (6+6), 3 epochs (20) at 1e-3 (1e-4)",
    ),
    "gcn-ve": (
        {**_ADAM, "vertex": GcnV(**_VERTEX), "widths": (256, 256, 128, 128), "most": 60, "epochs": 8},
        "half the widths, 60 candidates (159), k 80 (160), 8 epochs (40) of AdamW",
    ),
    "gcn-v": (_VERTEX, "width 256 (512), 10 epochs of AdamW"),
    "ltc": (
        {**_ADAM, "epochs": 20, "largest": 120},
        "proposals up to 120 samples (300), 20 epochs of AdamW",
    ),
}

# As small as trains at all.
QUICK: dict[str, tuple[dict[str, Any], str]] = {
    "intraformer": (
        {"preset": "small", "model": {"embed_dim": 16, "num_layers": 1}, "training": {"epochs": 1}},
        "a test's size",
    ),
    "intraformer-paper": (
        {"preset": "small-paper", "model": {"embed_dim": 16, "num_layers": 1}, "training": {"epochs": 1}},
        "a test's size",
    ),
    "omhc": (
        {"heads": 4, "ffn": 64, "epochs": 1, "batch": 64, "learning_rate": 1e-3, "clusters": 256},
        "a test's size",
    ),
    "star-fc": ({**_ADAM, "hidden": 32, "near": 6, "drawn": 5, "subgraphs": 3, "edges": 4000}, "a test's size"),
    "clusformer": ({"width": 24, "layers": 1, "epochs": 1, "learning_rate": 1e-3, "clusters": 256}, "a test's size"),
    "gcn-ve": (
        {
            **_ADAM,
            "vertex": GcnV(**{**_VERTEX, "hidden": 32, "epochs": 2}),
            "widths": (32, 32),
            "most": 20,
            "epochs": 1,
        },
        "a test's size",
    ),
    "gcn-v": ({**_VERTEX, "hidden": 32, "epochs": 2}, "a test's size"),
    "ltc": ({**_ADAM, "epochs": 2, "largest": 120, "widths": (32, 16)}, "a test's size"),
}


def _relinked(changes: dict[str, tuple[dict[str, Any], str]]) -> dict[str, tuple[dict[str, Any], str]]:
    """The changes, and those of the systems that only link otherwise."""
    found = dict(changes)
    for name in ("omhc", "clusformer"):
        changed, apart = changes[name]
        found[f"{name}-our-linking"] = {"system": replace(PUBLISHED[name].system, **changed)}, f"the linking; {apart}"  # type: ignore[type-var]
    return found


SIZES = {"published": {}, "small": _relinked(SMALL), "quick": _relinked(QUICK)}


def select(names: Sequence[str], size: str) -> dict[str, Entry]:
    """The systems of these names, all where none is given, in the order of the catalogue.

    Raises:
        ValueError: there is no system or no size of such a name.
    """
    if size not in SIZES:
        raise ValueError(f"size = {size!r}: expected one of {', '.join(SIZES)}")
    if unknown := [name for name in names if name not in PUBLISHED]:
        raise ValueError(f"no system {', '.join(map(repr, unknown))}: expected some of {', '.join(PUBLISHED)}")
    changes = SIZES[size]
    found = {}
    for name, entry in PUBLISHED.items():
        if names and name not in names:
            continue
        if name in changes:
            changed, apart = changes[name]
            entry = replace(entry, system=replace(entry.system, **changed), apart=apart)  # type: ignore[type-var]
        found[name] = entry
    return found
