"""What each part of the Intraformer is worth: the paper's tables X and XI, and the choices that it leaves open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .catalog import Entry, select
from .page import LEGEND, Section, Subject

WHOLE = "paper"
"""The row that all others change: the paper's form, as in the catalogue."""

WORDS = (
    "Every row is the paper's form with one thing changed, at the same size and trained equally long; the table of settings says what "
    "differs from the paper's own size. Edge AUC and F1, in percent, are "
    "those of the validation identities: how well the model ranks their edges, before any linking."
)

SUBCLUSTERS = (1, 2, 4, 5, 8, 10, 16)

INTIMACY = "rule-intimacy"
"""The whole by the rule that needs no package, and knows less than communities do."""
BY_INTIMACY = (
    "k-1",
    "no-catt",
    "no-fair",
    "no-fmi",
    "no-catt-fair",
    "no-catt-fmi",
    "no-fair-fmi",
    "no-catt-fair-fmi",
    "similarities-k-1",
)
"""Rows that are linked by it once more."""


@dataclass(frozen=True)
class Row:
    """A title, and what is changed in the model, in the training and in the choice of the linking."""

    title: str
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    rule: str | None = None


def rows() -> dict[str, Row]:
    """All rows by name. Those that only link otherwise stand beside the training that they share."""
    no_catt, no_fair, no_fmi = {"cross_attention": False}, {"fairness_weight": 0.0}, {"accuracy_loss": "bce"}
    similarities = {"tokens": "similarities", "similarity_input": False}
    found = {
        WHOLE: Row("whole: k = 4, C-ATT, L_fair, L_FMI"),
        **{
            f"rule-{rule}": Row(f"{rule} alone", rule=rule) for rule in ("intimacy", "density", "mutual", "communities")
        },
        **{f"k-{k}": Row(f"k = {k}", {"num_subclusters": k}) for k in SUBCLUSTERS if k != 4},
        "no-catt": Row("without C-ATT", no_catt),
        "no-fair": Row("without L_fair", {}, no_fair),
        "no-fmi": Row("without L_FMI: cross-entropy", {}, no_fmi),
        "no-catt-fair": Row("without C-ATT and L_fair", no_catt, no_fair),
        "no-catt-fmi": Row("without C-ATT and L_FMI", no_catt, no_fmi),
        "no-fair-fmi": Row("without L_fair and L_FMI", {}, {**no_fair, **no_fmi}),
        "no-catt-fair-fmi": Row("without C-ATT, L_fair and L_FMI", no_catt, {**no_fair, **no_fmi}),
        "warmup-step": Row("step", {}, {"bce_warmup": "step"}),
        "warmup-sum": Row("sum", {}, {"bce_warmup": "sum"}),
        "warmup-none": Row("none: L_FMI from the start", {}, {"bce_warmup": "none"}),
        "anchor": Row("C-ATT: sub-cluster 0 asks", {"cross_query": "anchor"}),
        "sinusoidal": Row("positions: sinusoidal", {"position": "sinusoidal"}),
        "no-position": Row("positions: none", {"position": "none"}),
        "cosine": Row("the cosine to the centroid in the token", {"similarity_input": True}),
        "similarities": Row("tokens of similarities", similarities),
        "similarities-no-catt": Row("tokens of similarities, without C-ATT", {**similarities, **no_catt}),
        "similarities-k-1": Row("tokens of similarities, k = 1", {**similarities, "num_subclusters": 1}),
    }
    with_intimacy = {}
    for name, row in found.items():
        with_intimacy[name] = row
        if name in BY_INTIMACY:
            with_intimacy[_by_intimacy(name)] = replace(row, title=f"{row.title}, by intimacy", rule="intimacy")
    return with_intimacy


def _by_intimacy(name: str) -> str:
    return f"{name}-by-intimacy"


def subject() -> Subject:
    """The rows by question; the whole stands in each, to compare with."""
    k = {WHOLE if k == 4 else f"k-{k}": k for k in SUBCLUSTERS}
    title = "What each part of the Intraformer is worth"
    return Subject("ablation", title, (WORDS, LEGEND[0], LEGEND[-1]), _sections(k), "k, sub-clusters", k)


def _sections(k: Mapping[str, int]) -> list[Section]:
    again = [_by_intimacy(name) for name in BY_INTIMACY]
    names = [name for name in rows() if name != WHOLE and name not in again]

    def those(*starts: str) -> list[str]:
        return [name for name in names if name.startswith(starts)]

    return [
        Section(
            "k, the number of sub-clusters",
            "The paper's table X has k = 4 and more.",
            list(k),
        ),
        Section(
            "Parts",
            "The paper's table XI has four of these; L_FMI gives way to cross-entropy.",
            [WHOLE, *those("no-catt", "no-f")],
        ),
        Section(
            "How cross-entropy leads into L_FMI",
            "The whole ramps from one into the other. Training itself says where it sees a collapse.",
            [WHOLE, *those("warmup")],
        ),
        Section(
            "What the paper leaves open",
            "The whole has ranks that are learned, and the members ask in C-ATT; the cosine in the token is not the paper's.",
            [WHOLE, "anchor", "sinusoidal", "no-position", "cosine"],
        ),
        Section(
            "Beyond the paper",
            "A token of similarities holds the neighbour's cosines to all of its cluster.",
            [WHOLE, *those("similarities")],
        ),
        Section(
            "The linking rule",
            "One training, linked by the best setting of each rule; the whole takes the best of all.",
            [WHOLE, *those("rule")],
        ),
        Section(
            "Linked by intimacy alone",
            "Communities make up for much that a model gets wrong. A rule that joins what shares enough neighbours, as those of "
            "Clusformer and STAR-FC do, shows more of it. Each row is the training of its name above.",
            [INTIMACY, *again],
        ),
    ]


def select_rows(names: Sequence[str], size: str) -> dict[str, Entry]:
    """The rows of these names, all where none is given, at a size of the catalogue.

    Raises:
        ValueError: there is no row or no size of such a name.
    """
    found = rows()
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"no row {', '.join(map(repr, unknown))} in the ablation: expected some of {', '.join(found)}")
    whole = select(["intraformer-paper"], size)["intraformer-paper"]
    system: Any = whole.system
    return {
        name: replace(
            whole,
            title=row.title,
            system=replace(
                system, model={**system.model, **row.model}, training={**system.training, **row.training}, rule=row.rule
            ),
        )
        for name, row in found.items()
        if not names or name in names
    }
