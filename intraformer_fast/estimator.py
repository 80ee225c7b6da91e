"""The whole path as a scikit-learn estimator."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from intraformer_fast import graph, nn, pipeline
from intraformer_fast.checkpoint import load_tensors, save_tensors
from intraformer_fast.data import unit_rows
from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.inference import predict_probability
from intraformer_fast.presets import preset as preset_of
from intraformer_fast.selection import Linking
from intraformer_fast.training import TrainingConfig, train

try:
    from sklearn.base import BaseEstimator, ClusterMixin
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise MissingDependencyError("scikit-learn", "sklearn", "IntraformerClusterer") from error

# Fewer identities than this leave none to choose a linking on.
LEAST_IDENTITIES = 8
# Similarities that `predict` holds at a time.
SIMILARITIES = 2**24


class IntraformerClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Learns from samples of known identity which neighbours belong together, and clusters by that.

    `fit(X, y)` trains an Intraformer on the identities `y`, chooses a linking rule on identities held out of the training, and clusters
    `X`. With a model trained before, `fit(X)` clusters without labels. `predict` gives new samples to the clusters found, without
    clustering anew.

    Args:
        model: None trains one. A file of `intraformer-fast train` or an `nn.Intraformer` is used as it is, and `y` is ignored.
        preset: settings of model and training, "small", "small-paper" or "paper".
        model_options: arguments of `nn.Intraformer` that override the preset's.
        training_options: attributes of `TrainingConfig` that override the preset's.
        validation: the share of the identities held out to choose the linking on. With fewer than 8 identities none is.
        rule, threshold: of the linking, in place of the chosen one's; see `graph.link`.
        assign_threshold: `predict` counts a neighbour whose probability is greater.
        random_state: seed of the held-out identities, of the model's start and of the training; an int.
        verbose: whether progress bars are drawn on stderr.

    Attributes:
        labels_: int64 [N], the clusters found in the fitted samples.
        model_: the `nn.Intraformer`, in evaluation mode. linking_: the `Linking`.
        features_: the fitted samples, rows of length 1. n_features_in_: their width.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Intraformer | None = None,
        *,
        preset: str = "small",
        model_options: Mapping[str, Any] | None = None,
        training_options: Mapping[str, Any] | None = None,
        validation: float = 0.25,
        rule: str | None = None,
        threshold: float | None = None,
        assign_threshold: float = 0.5,
        random_state: int = 0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.preset = preset
        self.model_options = model_options
        self.training_options = training_options
        self.validation = validation
        self.rule = rule
        self.threshold = threshold
        self.assign_threshold = assign_threshold
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.model is None
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> "IntraformerClusterer":
        """Train on the identities `y` of the samples `X`, unless a model is given, and cluster `X`.

        Args:
            X: floating [N, d], no row all zeros; rows that are not of length 1 are scaled to it.
            y: [N], the identity of every sample; integers, strings or whatever numpy sorts.

        Raises:
            ValueError: a shape is wrong, a number not finite, or `y` is missing or names one identity only.
            FileNotFoundError, DataError: `model` is a file that is not there or is damaged.
        """
        features = unit_rows(validate_data(self, X, dtype=[np.float32, np.float64], ensure_min_samples=2))
        if isinstance(self.model, nn.Intraformer):
            self.model_, self.linking_ = self.model, Linking()
        elif self.model is not None:
            self.model_, self.linking_ = pipeline.load_fitted(self.model)
        elif y is None:
            raise ValueError(
                "This IntraformerClusterer estimator requires y to be passed, but the target y is None: "
                "give the identities to learn from, or a trained model"
            )
        else:
            identities = np.unique(column_or_1d(y, warn=True), return_inverse=True)[1].astype(np.int64)
            self.model_, self.linking_ = self._learn(features, identities)
        if self.rule is not None and self.rule != self.linking_.rule:
            self.linking_ = Linking(self.rule)
        if self.threshold is not None:
            self.linking_ = Linking(**{**self.linking_.to_dict(), "threshold": self.threshold})
        self.features_ = features
        self.labels_ = pipeline.cluster(self.model_, self.linking_, features, progress=self.verbose)
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The fitted cluster of each sample, or -1 where it belongs to none of them; the clusters stay what they are.

        A sample goes where its nearest fitted samples are, each counted by the probability, greater than `assign_threshold`, that it
        has the sample's identity.

        Args:
            X: floating [M, d], as in `fit`; each sample is looked at alone.

        Raises:
            ValueError: a shape is wrong or a number not finite. NotFittedError: `fit` was not called.
        """
        check_is_fitted(self)
        new = unit_rows(validate_data(self, X, dtype=[np.float32, np.float64], reset=False)).astype(np.float32)
        known = np.asarray(self.features_, np.float32)
        neighbors = _nearest(new, known, min(self.model_.num_neighbors - 1, len(known)))
        rows = np.concatenate([np.arange(len(new))[:, None] + len(known), neighbors], axis=1)
        table = np.concatenate([known, new])
        probability = predict_probability(self.model_, table, rows, progress=self.verbose)[:, 1:]
        return _most_votes(self.labels_[neighbors], probability, self.assign_threshold)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted clusterer to one safetensors file, for `load`: model, linking, samples and clusters.

        Raises:
            NotFittedError: `fit` was not called. OSError: the file cannot be written; what stood there before is untouched.
        """
        check_is_fitted(self)
        tensors = {f"model.{name}": tensor for name, tensor in self.model_.state_dict().items()}
        tensors |= {"features": torch.from_numpy(np.array(self.features_)), "labels": torch.from_numpy(self.labels_)}
        options = {name: value for name, value in self.get_params(deep=False).items() if name != "model"}
        state = {"config": self.model_.config, "linking": self.linking_.to_dict(), "options": options}
        save_tensors(path, "clusterer", tensors, state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "IntraformerClusterer":
        """What `save` wrote. Its `model` is the trained one, so that `fit` clusters other samples by it.

        Raises:
            FileNotFoundError, DataError: there is no such file, or it is damaged or another kind of file.
        """
        tensors, state = load_tensors(path, "clusterer")
        features, labels = tensors.pop("features").numpy(), tensors.pop("labels").numpy()
        model = nn.Intraformer(**state["config"])
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
        found = cls(model.eval(), **state["options"])
        found.model_, found.linking_ = model, Linking(**state["linking"])
        found.features_, found.labels_, found.n_features_in_ = features, labels, features.shape[1]
        return found

    def _learn(
        self, features: npt.NDArray[np.floating], identities: npt.NDArray[np.int64]
    ) -> tuple[nn.Intraformer, Linking]:
        options = {**preset_of(self.preset).model, **(self.model_options or {}), "input_dim": features.shape[1]}
        training = {"seed": self.random_state, **(self.training_options or {})}
        config = TrainingConfig.from_preset(self.preset, **training)
        if identities.max() + 1 >= LEAST_IDENTITIES:
            n = options["num_neighbors"]
            data = pipeline.prepare(features, identities, n, validation=self.validation, seed=self.random_state)
            with tempfile.TemporaryDirectory() as folder:
                fitted = pipeline.fit(data, options, config, Path(folder), progress=self.verbose)
            return fitted.model, fitted.linking
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = nn.Intraformer(**options)
        neighbors, _ = graph.knn_graph(features, model.num_neighbors)
        train(model, features, identities, neighbors, config=config, progress=self.verbose)
        return model, Linking()


def _nearest(queries: npt.NDArray[np.float32], known: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """int64 [M, k], the rows of `known` [N, d] nearest to each query [M, d], in falling similarity; all rows have length 1."""
    table = torch.from_numpy(known)
    step = max(1, SIMILARITIES // len(known))
    found = [(torch.from_numpy(queries[i : i + step]) @ table.T).topk(k).indices for i in range(0, len(queries), step)]
    return torch.cat(found).numpy()


def _most_votes(
    labels: npt.NDArray[np.int64], probability: npt.NDArray[np.float32], threshold: float
) -> npt.NDArray[np.int64]:
    """Of each row the label with the greatest sum of those probabilities that pass, of equals the lower; -1 where none passes."""
    result = np.full(len(labels), -1, np.int64)
    rows, columns = np.nonzero(probability > threshold)
    count = int(labels.max(initial=0)) + 1
    keys, inverse = np.unique(rows * count + labels[rows, columns], return_inverse=True)
    votes = np.bincount(inverse, weights=probability[rows, columns], minlength=len(keys))
    order = np.lexsort((-keys, votes, keys // count))  # the last of each row is its answer
    result[keys[order] // count] = keys[order] % count
    return result
