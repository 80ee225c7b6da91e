"""The demo: train on the glyph example, cluster characters no training saw, and compare with the classical methods."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from intraformer_fast import metrics
from intraformer_fast.bench import baselines
from intraformer_fast.data import Dataset, load_example
from intraformer_fast.installation import info
from intraformer_fast.pipeline import Fitted, NeighborGraph, fit, neighbor_graph, predict, prepare
from intraformer_fast.presets import preset
from intraformer_fast.report import METRICS, ContactSheet, EdgeHistogram, ReportContent, Row, write_report
from intraformer_fast.selection import Linking
from intraformer_fast.training import TrainingConfig

Labels = npt.NDArray[np.int64]

SEED = 0


@dataclass(frozen=True)
class Configuration:
    """One of the models the demo trains."""

    name: str
    folder: str
    preset: str


CONFIGURATIONS = (
    Configuration("Intraformer, our best form", "small", "small"),
    Configuration("Intraformer, k = 4 with C-ATT (the paper's form)", "paper-form", "small-paper"),
)

# What the classical methods' settings are chosen from, on the same validation characters.
RANK_CUTOFFS = (20, 30, 40, 50, 60)
COSINE_THRESHOLDS = tuple(np.arange(0.5, 0.96, 0.025).round(3).tolist())
LINKAGE_CUTS = tuple(np.arange(0.3, 0.9, 0.025).round(3).tolist())
COMPONENT_NEIGHBORS = 10

SHEET_PICTURES = 40
HISTOGRAM_PAIRS = 200_000


def run_demo(
    output: Path, *, epochs: int | None = None, resume: bool = True, backend: str = "auto", say: Callable[[str], None]
) -> tuple[Path, str]:
    """Run it, and write `output/index.html`; the models are in `output/models/`.

    Args:
        output: folder, made if need be.
        epochs: of each training. None takes the preset's.
        resume: whether to go on from an interrupted run's checkpoints.
        backend: of the models, as in `nn.Intraformer`.
        say: told what happens, a line at a time.

    Returns:
        The path of the page, and its tables as text.
    """
    started = time.monotonic()
    n = preset("small").model["num_neighbors"]
    known, test = load_example("glyphs", "train"), load_example("glyphs", "test")
    groups = test.groups
    assert groups is not None
    say(f"{len(known)} pictures to learn from, {len(test)} of other characters to cluster")
    data = prepare(known.features, known.labels, n, seed=SEED)
    all_known, target = (neighbor_graph(x.features, x.labels, n) for x in (known, test))

    results: list[Row] = []

    def score(name: str, labels: Labels, settings: str, since: float, *, ours: bool = False) -> None:
        report = metrics.fairness_report(test.labels, labels, groups, group_names=test.group_names)
        seconds = time.monotonic() - since
        results.append(Row(name, report, seconds, settings, "ours" if ours else "baseline"))
        of, std = report.overall, report.statistics("pairwise_f").std
        scores = f"F_P {100 * of.pairwise_f:.1f}, F_B {100 * of.bcubed_f:.1f}, STD of F_P {100 * std:.1f}"
        say(f"{name}: {scores}, {seconds:.0f} s")

    fitted: dict[str, Fitted] = {}
    clusterings: dict[str, Labels] = {}
    histograms = [histogram("Before: the cosine", "cosine similarity", target, target.similarity)]
    for one in CONFIGURATIONS:
        say(f"{one.name}: training")
        since = time.monotonic()
        config = TrainingConfig.from_preset(one.preset, seed=SEED, **({} if epochs is None else {"epochs": epochs}))
        trained = fit(
            data,
            {**preset(one.preset).model, "backend": backend},
            config,
            output / "models" / one.folder,
            resume=resume,
        )
        probability = predict(trained.model, target, config)
        labels = trained.linking.link(target.neighbors, target.similarity, probability)
        score(one.name, labels, f"linking {trained.linking}", since, ours=True)
        fitted[one.name], clusterings[one.name] = trained, labels
        histograms.append(histogram(f"After: {one.name}", "predicted probability of the same", target, probability))

    best = max(fitted, key=lambda name: fitted[name].tried[0].score)
    say("classical methods")
    since = time.monotonic()
    for name, labels, settings in classical(all_known, target, fitted[best].linking):
        score(name, labels, settings, since)
        since = time.monotonic()

    content = ReportContent(
        title="Clustering characters that no training saw",
        summary=(
            f"{len(test):,} pictures of {len(np.unique(test.labels))} characters in hundreds of fonts, clustered by models "
            f"trained on other characters. Of the two models, validation prefers: {best}.",
        ),
        rows=results,
        notes=(
            "The models' epochs, thresholds and linking rules were chosen on characters held out of their training; those of the "
            "classical methods, which are not trained, on all the training characters. The labels of the test characters served "
            "for these scores alone; k-means was also given their number.",
            "The groups are scripts. They differ by nature, and exercise the measurement of fairness; the figures are no "
            "claim about people.",
        ),
        histograms=histograms,
        sheets=contact_sheets(test, clusterings[best]),
        histories={name: one.training.history for name, one in fitted.items()},
        environment={**info(), "seconds": round(time.monotonic() - started)},
        command="intraformer-fast demo",
    )
    return write_report(output, content), text_tables(results)


def classical(known: NeighborGraph, target: NeighborGraph, linking: Linking) -> Iterator[tuple[str, Labels, str]]:
    """The classical methods on the test characters, with the settings that serve the known characters best.

    They are not trained, so that all known characters serve as validation, in a set as large as the test's.
    """

    def choose(settings: Sequence[Any], cluster: Callable[[Any], Labels]) -> Any:
        def score(setting: Any) -> float:
            found = metrics.scores(known.labels, cluster(setting))
            return found.pairwise_f + found.bcubed_f

        return max(settings, key=score)

    def rank_cutoff(on: NeighborGraph, r: int) -> Labels:
        return linking.link(on.neighbors, on.similarity, baselines.rank_cutoff_probability(on.neighbors, r))

    def components(on: NeighborGraph, threshold: float) -> Labels:
        near = (on.neighbors[:, :COMPONENT_NEIGHBORS], on.similarity[:, :COMPONENT_NEIGHBORS])
        return baselines.connected_components(*near, threshold)

    r = choose(RANK_CUTOFFS, lambda r: rank_cutoff(known, r))
    yield "rank cut-off, the same linking", rank_cutoff(target, r), f"the first {r} neighbours of everyone; {linking}"
    threshold = choose(COSINE_THRESHOLDS, lambda t: components(known, t))
    settings = f"{COMPONENT_NEIGHBORS} neighbours, cosine above {threshold}"
    yield "connected components", components(target, threshold), settings
    count = len(np.unique(target.labels))
    yield "k-means, true number given", baselines.kmeans(target.features, count, seed=SEED), f"{count} clusters"
    tree = baselines.average_linkage_tree(known.features)
    cut = choose(LINKAGE_CUTS, lambda c: baselines.cut_tree(tree, c))
    tree = baselines.average_linkage_tree(target.features)
    yield "average linkage", baselines.cut_tree(tree, cut), f"cut at cosine distance {cut}"
    yield "HDBSCAN", baselines.hdbscan(target.neighbors, target.similarity), "at least 4 samples a cluster"


def histogram(title: str, quantity: str, on: NeighborGraph, value: npt.NDArray[np.float32]) -> EdgeHistogram:
    """The values of a random part of the neighbour pairs, by whether they share an identity."""
    rows, columns = np.nonzero(on.neighbors[:, 1:] >= 0)
    columns += 1
    some = np.random.default_rng(SEED).permutation(len(rows))[:HISTOGRAM_PAIRS]
    rows, columns = rows[some], columns[some]
    same = on.labels[on.neighbors[rows, columns]] == on.labels[rows]
    values = value[rows, columns]
    return EdgeHistogram(title, quantity, values[same], values[~same])


def contact_sheets(data: Dataset, clusters: Labels) -> list[ContactSheet]:
    """A good cluster, one piece of a split character, and one that merges several."""
    assert data.class_names is not None
    order = np.lexsort((data.labels, clusters))
    pairs, counts = np.unique(np.stack((clusters, data.labels)), axis=1, return_counts=True)
    sizes, true_sizes = np.bincount(clusters), np.bincount(data.labels)
    # Of each cluster its most frequent identity: the last of its pairs sorted by count.
    last = np.lexsort((counts, pairs[0]))
    last = last[np.append(np.diff(pairs[0][last]) > 0, True)]
    main, share = pairs[1][last], counts[last] / sizes[pairs[0][last]]
    found = counts[last] / true_sizes[main]
    big = sizes >= 12

    def sheet(title: str, value: npt.NDArray[np.floating[Any]], caption: str) -> ContactSheet:
        cluster = int(np.argmax(np.where(big, value, -np.inf)))
        members = order[clusters[order] == cluster]
        # The majority first, then the others by identity.
        members = members[np.argsort(data.labels[members] != main[cluster], kind="stable")]
        shown = members[np.linspace(0, len(members) - 1, min(len(members), SHEET_PICTURES)).astype(int)]
        names = [data.class_names[label] for label in data.labels[shown]]  # type: ignore[index]
        facts = {
            "name": data.class_names[main[cluster]],  # type: ignore[index]
            "size": sizes[cluster],
            "share": round(100 * share[cluster]),
            "found": round(100 * found[cluster]),
            "identities": len(np.unique(data.labels[members])),
        }
        return ContactSheet(
            title, caption.format(**facts), data.pictures(shown), names, data.labels[shown] == main[cluster]
        )

    return [
        sheet(
            "A good cluster",
            share * found + 0.01 * sizes / sizes.max(),
            "{size} pictures, {share} % of them {name}, {found} % of all there are of it.",
        ),
        sheet(
            "A split character",
            share * (1 - found) * (found < 0.6),
            "{size} pictures, {share} % of them {name}, but only {found} % of all there are: the others stand elsewhere.",
        ),
        sheet(
            "A merged cluster",
            1 - share,
            "{size} pictures of {identities} characters; {name}, the most frequent, is {share} % of them.",
        ),
    ]


def text_tables(results: Sequence[Row]) -> str:
    """A table a metric: methods by groups, with their mean and STD and the score over all samples, in percent."""
    width = max(len(result.name) for result in results)
    blocks = []
    for metric, (heading, _) in METRICS.items():
        groups = list(results[0].report.groups)
        columns = [*groups, "mean", "STD", "all"]
        lines = [f"{heading:<{width}}  " + "  ".join(f"{name:>5}" for name in columns)]
        for result in results:
            of = result.report.statistics(metric)
            scores = [*result.report.groups.values(), result.report.overall]
            *values, overall = (getattr(one, metric) for one in scores)
            values += [of.mean, of.std, overall]
            cells = (f"{100 * value:>{max(5, len(name))}.1f}" for name, value in zip(columns, values, strict=True))
            lines.append(f"{result.name:<{width}}  " + "  ".join(cells))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
