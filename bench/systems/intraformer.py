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


@dataclass(frozen=True)
class IntraformerSystem:
    """Hyper-parameters.

    Attributes:
        preset: that the others start from.
        model: arguments of `nn.Intraformer` that differ from the preset's; the number of neighbours is the graph's.
        training: settings of `TrainingConfig` that differ.
    """

    preset: str = "paper"
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        options = {**preset(self.preset).model, **self.model, "num_neighbors": train.neighbors.shape[1]}
        config = TrainingConfig.from_preset(self.preset, seed=seed, **self.training)
        with tempfile.TemporaryDirectory(prefix="intraformer-systems-") as folder:
            parts = pipeline.TrainingData(train, validation)
            fitted = pipeline.fit(parts, options, config, folder, resume=False, progress=False)

        def cluster(graph: NeighborGraph) -> Labels:
            probability = pipeline.predict(fitted.model, graph, config, progress=False)
            return fitted.linking.link(graph.neighbors, graph.similarity, probability)

        warnings = [epoch["collapse"] for epoch in fitted.training.history if epoch.get("collapse")]
        return Fitted(cluster, str(fitted.linking), {"collapse": warnings[-1]} if warnings else {})
