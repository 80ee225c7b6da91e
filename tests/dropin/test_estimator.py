"""IntraformerClusterer keeps scikit-learn's contract where that allows it, and does its own work."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

import intraformer_fast as ifast
from intraformer_fast.errors import DataError

TINY = {
    "model_options": {"embed_dim": 8, "num_heads": 1, "num_layers": 1, "num_neighbors": 8},
    "training_options": {"epochs": 1, "batch_size": 512},
}
# What scikit-learn expects of every clusterer, and this one cannot do.
EXCEPTIONS = {
    "check_clustering": "fits without y: what belongs together is learnt from identities, or from a trained model",
    "check_fit_score_takes_y": "fits without y as well",
    "check_estimators_dtypes": "gives a row of zeros, which has no direction to compare",
}
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # nothing is learnt of so little, and training says so
]


@parametrize_with_checks([ifast.IntraformerClusterer(**TINY)], expected_failed_checks=lambda estimator: EXCEPTIONS)
def test_contract(estimator, check):
    check(estimator)


def samples(identities, width=16, seed=0):
    """Far apart, and of all sizes: of equal ones a model would learn the rank alone."""
    draw = np.random.default_rng(seed)
    centers = draw.normal(size=(identities, width))
    labels = np.repeat(np.arange(identities), draw.integers(4, 16, identities))
    return (centers[labels] + 0.05 * draw.normal(size=(len(labels), width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted():
    options = {"embed_dim": 16, "num_heads": 1, "num_layers": 1, "num_neighbors": 16, "tokens": "features"}
    options["similarity_input"] = True  # a row of similarities takes more than 24 identities to learn
    training = {"epochs": 30, "learning_rate": 1e-2, "batch_size": 32}
    return ifast.IntraformerClusterer(model_options=options, training_options=training).fit(*samples(32))


def test_it_clusters_what_it_learnt_from_and_others(fitted):
    _, labels = samples(32)
    assert ifast.metrics.pairwise_f(labels, fitted.labels_) > 0.9
    others, identities = samples(9, seed=1)
    found = ifast.IntraformerClusterer(fitted.model_).fit_predict(others)
    assert ifast.metrics.pairwise_f(identities, found) > 0.9


def test_new_samples_join_the_clusters_that_there_are(fitted):
    x, labels = samples(9, seed=1)
    late = np.arange(len(x)) % 4 == 0
    clusterer = ifast.IntraformerClusterer(fitted.model_).fit(x[~late])
    before = clusterer.labels_.copy()
    given = clusterer.predict(x[late])
    together = np.concatenate([before, given])
    assert ifast.metrics.pairwise_f(np.concatenate([labels[~late], labels[late]]), together) > 0.9
    assert np.array_equal(clusterer.labels_, before)
    assert set(given) <= {-1, *before}
    assert np.array_equal(np.concatenate([clusterer.predict(row[None]) for row in x[late]]), given)
    assert (clusterer.set_params(assign_threshold=1.0).predict(x[late]) == -1).all()


def test_save_and_load(fitted, tmp_path):
    path = tmp_path / "clusterer.safetensors"
    fitted.save(path)
    again = ifast.IntraformerClusterer.load(path)
    x, _ = samples(3, seed=2)
    assert np.array_equal(again.predict(x), fitted.predict(x))
    assert np.array_equal(again.labels_, fitted.labels_)
    assert again.linking_ == fitted.linking_
    assert ifast.metrics.pairwise_f(*[again.fit(x).labels_] * 2) == 1  # by the model it brought along
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged"):
        ifast.IntraformerClusterer.load(path)


def test_in_a_pipeline_from_a_file_with_string_labels(fitted, tmp_path):
    from intraformer_fast.checkpoint import save_model

    save_model(tmp_path / "model.safetensors", fitted.model_, {"linking": fitted.linking_.to_dict()})
    x, labels = samples(5, seed=3)
    pipe = make_pipeline(
        Normalizer(), ifast.IntraformerClusterer(tmp_path / "model.safetensors", rule="mutual", threshold=0.6)
    )
    assert ifast.metrics.pairwise_f(labels, pipe.fit_predict(3 * x)) > 0.9
    assert (pipe[-1].linking_.rule, pipe[-1].linking_.threshold) == ("mutual", 0.6)
    assert len(ifast.IntraformerClusterer(**TINY).fit(x, np.array(list("abcde"))[labels]).labels_) == len(x)


def test_errors(fitted):
    x, _labels = samples(3)
    with pytest.raises(ValueError, match="requires y to be passed"):
        ifast.IntraformerClusterer().fit(x)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(x)
    with pytest.raises(DataError):
        ifast.IntraformerClusterer(**TINY).fit(x, np.zeros(len(x)))
    with pytest.raises(FileNotFoundError):
        ifast.IntraformerClusterer("nowhere.safetensors").fit(x)
