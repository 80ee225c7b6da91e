"""The Intraformer itself, through the library's own path: `pipeline.fit`, and the linking that validation chooses."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from intraformer_fast import pipeline
from intraformer_fast.pipeline import NeighborGraph
from intraformer_fast.presets import preset
from intraformer_fast.training import TrainingConfig

from .protocol import Fitted, Labels

COLLAPSE = "what training says"
"""Name of a note."""


@dataclass(frozen=True)
class IntraformerSystem:
    """Hyper-parameters.

    Attributes:
        preset: that the others start from.
        model: arguments of `nn.Intraformer` that differ from the preset's; the number of neighbours is the graph's.
        training: settings of `TrainingConfig` that differ.
        rule: of linking; None takes that with the best scores.
    """

    preset: str = "paper"
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    rule: str | None = None

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        options = {**preset(self.preset).model, **self.model, "num_neighbors": train.neighbors.shape[1]}
        config = TrainingConfig.from_preset(self.preset, seed=seed, **self.training)
        fitted = _trained(pipeline.TrainingData(train, validation), options, config)
        linking = next((one.linking for one in fitted.tried if self.rule in (None, one.linking.rule)), None)
        if linking is None:
            raise ValueError(
                f"rule = {self.rule!r} was not tried: it needs a package that is not installed, or is none"
            )

        def cluster(graph: NeighborGraph) -> Labels:
            probability = pipeline.predict(fitted.model, graph, config, progress=False)
            return linking.link(graph.neighbors, graph.similarity, probability)

        best = fitted.training.history[fitted.training.best_epoch - 1]
        figures = {"edge AUC": best["auc"], "edge F1": best["f1"], "cosine's AUC": best["cosine_auc"]}
        collapse = fitted.training.collapse
        return Fitted(cluster, str(linking), {COLLAPSE: collapse} if collapse else {}, figures)


class _Latest:
    """The last training, which rows that only link otherwise share."""

    of: tuple[Any, ...] | None = None
    fitted: pipeline.Fitted | None = None


def _trained(data: pipeline.TrainingData, options: dict[str, Any], config: TrainingConfig) -> pipeline.Fitted:
    # Kept alive, no other graph can have the identity of these.
    of = (data.fit, data.validation, options, config)
    latest = _Latest.of
    if latest is None or not (latest[0] is of[0] and latest[1] is of[1] and latest[2:] == of[2:]):
        with tempfile.TemporaryDirectory(prefix="intraformer-systems-") as folder:
            _Latest.fitted = pipeline.fit(data, options, config, folder, resume=False, progress=False)
        _Latest.of = of
    assert _Latest.fitted is not None
    return _Latest.fitted
