"""Named settings of model and training together."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Arguments of `Intraformer` and of `TrainingConfig` that differ from their defaults."""

    model: dict[str, Any]
    training: dict[str, Any]


PRESETS = {
    # The paper's section VI: n = 256, k = 4, L = 6, H = 4, width 512; Adam, 1e-4, cosine, 10 epochs.
    "paper": Preset(
        model={"embed_dim": 512, "num_neighbors": 256, "num_subclusters": 4, "num_layers": 6, "num_heads": 4},
        training={"epochs": 10, "learning_rate": 1e-4, "weight_decay": 0.0},
    ),
    # Trains in two minutes on one core. Tokens of similarities and one sub-cluster (full attention): what validation prefers on
    # the glyph example (docs/ablations.md).
    "small": Preset(
        model={
            "embed_dim": 64,
            "num_neighbors": 80,
            "num_subclusters": 1,
            "num_layers": 2,
            "num_heads": 4,
            "tokens": "similarities",
        },
        # A fairness weight of 1, the paper's, costs accuracy there and leaves the STD over groups as it is.
        training={"epochs": 3, "learning_rate": 1e-3, "weight_decay": 0.01, "fairness_weight": 0.25},
    ),
    # The paper's form (tokens of features, four sub-clusters, C-ATT) at a size for a CPU. Longer trainings cluster no better
    # (docs/ablations.md).
    "small-paper": Preset(
        model={"embed_dim": 128, "num_neighbors": 80, "num_subclusters": 4, "num_layers": 2, "num_heads": 4},
        training={"epochs": 1, "learning_rate": 1e-3, "weight_decay": 0.01, "fairness_weight": 0.25},
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} does not exist: expected one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]
