"""What a training does: learns, is what it says, keeps the best, leaves the caller's state alone, refuses bad input."""

import json
import math
import warnings
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from intraformer_fast.checkpoint import load_model
from intraformer_fast.errors import DataError
from intraformer_fast.nn import IntraformerLoss
from intraformer_fast.training import CollapseWarning, TrainingConfig, ValidationSet, train
from intraformer_fast.training.monitoring import EdgeMonitor, EdgeScores

QUICK = TrainingConfig(epochs=2, batch_size=16, learning_rate=3e-3, precision="fp32")


def run(model, samples, config=QUICK, **options):
    options = {"progress": False, **options}
    with warnings.catch_warnings():
        # Two epochs on a hundred samples teach nothing: that a watch says so is tested elsewhere.
        warnings.simplefilter("ignore", CollapseWarning)
        return train(model, samples.features, samples.labels, samples.neighbors, config=config, **options)


def replaced(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def learnt(many_samples, many_held_out, tmp_path_factory):
    """A training that learns something: (result, model, folder)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    from intraformer_fast import nn

    model = nn.Intraformer(32, 16, 1, 2, 2, input_dim=7, similarity_input=True)
    folder = tmp_path_factory.mktemp("learnt")
    config = TrainingConfig(epochs=3, batch_size=32, learning_rate=5e-3, precision="fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        result = train(
            model,
            many_samples.features,
            many_samples.labels,
            many_samples.neighbors,
            config=config,
            validation=many_held_out.as_validation(),
            output_dir=folder,
            progress=False,
        )
    return result, model, folder


def test_the_loss_falls_and_unseen_identities_are_told_better_than_by_the_cosine(learnt):
    history = learnt[0].history
    assert history[-1]["bce"] < 0.9 * history[0]["bce"]
    assert history[-1]["fmi"] < history[0]["fmi"]
    assert history[-1]["auc"] > history[-1]["cosine_auc"] + 0.05
    assert history[-1]["auc"] > history[0]["auc"]


def test_history_is_complete_and_is_the_file(learnt):
    result, _, folder = learnt
    assert json.loads((folder / "history.json").read_text()) == result.history
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3]
    names = {"epoch", "step", "learning_rate", "loss", "fmi", "bce", "fairness", "purity", "scored_on", "collapse"}
    for entry in result.history:
        assert entry.keys() == names | set(EdgeScores.__dataclass_fields__)
        assert entry["scored_on"] == "validation"
        assert entry["collapse"] is None
    steps = result.history[0]["step"]
    assert [entry["step"] for entry in result.history] == [steps, 2 * steps, 3 * steps]


def test_the_best_epoch_is_kept_in_model_and_file(learnt, many_held_out):
    result, model, folder = learnt
    scores = [entry["f1"] for entry in result.history]
    assert result.best_epoch == scores.index(max(scores)) + 1
    assert result.output_dir == folder
    loaded, settings = load_model(folder / "model.safetensors")
    assert torch.equal(weights(loaded), weights(model))
    assert settings["epoch"] == result.history[result.best_epoch - 1]
    assert settings["training"]["learning_rate"] == 5e-3
    assert not model.training


@pytest.mark.parametrize("best", [1, 2, 3])
def test_a_later_epoch_replaces_the_best_only_when_it_is_better(
    samples, held_out, new_model, tmp_path, monkeypatch, best
):
    genuine, seen = EdgeMonitor.scores, []

    def scores(self, model):
        seen.append(weights(model).clone())
        # A tie is no improvement.
        return replace(genuine(self, model), f1=0.9 if len(seen) >= best else 0.1)

    monkeypatch.setattr(EdgeMonitor, "scores", scores)
    model = new_model()
    config = replace(QUICK, epochs=3)
    result = run(model, samples, config, validation=held_out.as_validation(), output_dir=tmp_path)
    assert result.best_epoch == best
    assert torch.equal(weights(model), seen[best - 1])
    assert torch.equal(weights(load_model(tmp_path / "model.safetensors")[0]), seen[best - 1])


def test_without_validation_the_last_epoch_is_kept(samples, new_model, tmp_path):
    result = run(new_model(), samples, output_dir=tmp_path)
    assert result.best_epoch == 2
    assert {entry["scored_on"] for entry in result.history} == {"training"}


def test_full_batch_training_is_adam_on_the_objective(samples, new_model):
    """The same in a dozen lines: with one batch an epoch the order of the clusters is of no account."""
    neighbors = samples.neighbors.copy()
    neighbors[::3, 8:] = -1
    samples = replace(samples, neighbors=neighbors)
    config = TrainingConfig(
        epochs=4, batch_size=1000, learning_rate=0.01, weight_decay=0.1, gradient_clip=0.5, precision="fp32"
    )
    model = new_model()
    result = run(model, samples, config)

    twin = new_model()
    loss = IntraformerLoss()
    optimizer = torch.optim.AdamW(twin.parameters(), weight_decay=0.1)
    x = torch.from_numpy(samples.features[np.maximum(neighbors, 0)])
    valid = torch.from_numpy(neighbors >= 0)
    target = torch.from_numpy(samples.labels[np.maximum(neighbors, 0)] == samples.labels[:, None])
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 4)) / 2
        terms = loss.terms(twin(x, valid), target, valid, progress=step / 4)
        optimizer.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        entry = result.history[step]
        found = [entry[name] for name in ("loss", "fmi", "bce", "fairness", "purity")]
        assert found == pytest.approx([term.item() for term in terms], rel=1e-4)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-3, atol=1e-4)


def test_every_cluster_is_seen_once_an_epoch_in_near_equal_batches(samples, new_model, monkeypatch):
    from intraformer_fast.clusters import LabeledClusters

    seen = []
    genuine = LabeledClusters.gather

    def gather(self, rows):
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            seen.append(rows.tolist())
        return genuine(self, rows)

    monkeypatch.setattr(EdgeMonitor, "__init__", lambda self, *_, **__: setattr(self, "cosine_auc", 0.5))
    monkeypatch.setattr(EdgeMonitor, "scores", lambda *_: EdgeScores(0.9, 0.5, 0.9, 0.5, 5.0, 2.0, 2.0))
    monkeypatch.setattr(LabeledClusters, "gather", gather)
    run(new_model(), samples)
    size = len(samples.labels)
    per_epoch = -(-size // 16)
    assert len(seen) == 2 * per_epoch
    epochs = [list(chain.from_iterable(part)) for part in (seen[:per_epoch], seen[per_epoch:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(size))] * 2
    assert epochs[0] != epochs[1]
    lengths = {len(rows) for rows in seen}
    assert max(lengths) <= 16
    assert max(lengths) - min(lengths) <= 1


def test_the_seed_decides_order_and_dropout(samples, new_model):
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = new_model(dropout=0.2)
        torch.manual_seed(int(np.frombuffer(name.encode(), np.uint8)[0]))
        result = run(model, samples, replace(QUICK, seed=seed))
        found[name] = weights(model), result.history
    assert torch.equal(found["a"][0], found["b"][0])
    assert found["a"][1] == found["b"][1]
    assert not torch.equal(found["a"][0], found["c"][0])


def test_the_callers_random_state_and_products_setting_are_left_alone(samples, new_model):
    model = new_model(dropout=0.2)
    before = torch.get_rng_state(), torch.backends.mkldnn.matmul.fp32_precision
    run(model, samples)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.backends.mkldnn.matmul.fp32_precision == before[1]


def test_bf16_keeps_float32_weights_and_learns_about_the_same(samples, new_model):
    exact, rounded = new_model(), new_model()
    run(exact, samples)
    run(rounded, samples, replace(QUICK, precision="bf16"))
    assert rounded.head.weight.dtype == torch.float32
    assert not torch.equal(weights(exact), weights(rounded))
    start = weights(new_model())
    moved = (weights(exact) - start).norm()
    assert (weights(exact) - weights(rounded)).norm() < 0.3 * moved


def test_what_stands_behind_padding_changes_nothing(samples, new_model):
    """Padding is gathered from row 0: with that sample in no cluster, not even its own, its feature must not matter."""
    neighbors = np.where(samples.neighbors == 0, -1, samples.neighbors)
    neighbors[::2, 11:] = -1
    neighbors[0] = -1
    found = []
    for feature in (samples.features[0], 1e6):
        features = replaced(samples.features, 0, feature)
        model = new_model()
        result = run(model, replace(samples, features=features, neighbors=neighbors))
        found.append((weights(model), result.history))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_memory_mapped_tables_train_alike(samples, new_model, tmp_path):
    mapped = {}
    for name in ("features", "labels", "neighbors"):
        np.save(tmp_path / f"{name}.npy", getattr(samples, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    plain, from_files = new_model(), new_model()
    run(plain, samples)
    run(from_files, replace(samples, **mapped))
    assert torch.equal(weights(plain), weights(from_files))


def test_frozen_parameters_stay(samples, new_model, tmp_path):
    model = new_model()
    model.input_projection.requires_grad_(False)
    before = model.input_projection.weight.clone()
    run(model, samples, output_dir=tmp_path)
    assert torch.equal(model.input_projection.weight, before)
    assert not torch.equal(model.head.weight, new_model().head.weight)


def test_the_bar_is_on_stderr_and_can_be_silenced(samples, new_model, capfd):
    run(new_model(), samples)
    assert capfd.readouterr() == ("", "")
    run(new_model(), samples, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 2/2: 100%" in err
    assert "loss=" in err


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(samples, new_model, tmp_path, monkeypatch):
    genuine, calls = IntraformerLoss.terms, []

    def terms(self, *args, **kwargs):
        calls.append(1)
        found = genuine(self, *args, **kwargs)
        return found._replace(total=found.total * torch.nan) if len(calls) == 9 else found

    monkeypatch.setattr(IntraformerLoss, "terms", terms)
    with pytest.raises(FloatingPointError, match=r"not finite at step 9 of 12: .*holds the last good checkpoint"):
        run(new_model(), samples, replace(QUICK, checkpoint_every=1), output_dir=tmp_path)
    monkeypatch.undo()
    model, unbroken = new_model(), new_model()
    run(model, samples, output_dir=tmp_path)
    run(unbroken, samples)
    assert torch.equal(weights(model), weights(unbroken))


def test_an_infinite_loss_with_a_finite_gradient_stops_as_well(samples, new_model, monkeypatch):
    genuine = IntraformerLoss.terms

    def terms(self, *args, **kwargs):
        found = genuine(self, *args, **kwargs)
        return found._replace(total=found.total + torch.inf)

    monkeypatch.setattr(IntraformerLoss, "terms", terms)
    with pytest.raises(FloatingPointError, match="not finite at step 1 of"):
        run(new_model(), samples)


BAD = {
    "labels too short": (lambda s: {"labels": s.labels[:-1]}, ValueError, "labels of the training set has shape"),
    "labels in columns": (lambda s: {"labels": s.labels[:, None]}, ValueError, "labels of the training set has shape"),
    "fractional labels": (lambda s: {"labels": s.labels.astype(float)}, TypeError, "labels of the training set is"),
    "words for labels": (lambda s: {"labels": s.labels.astype(str)}, TypeError, "labels cannot be used"),
    "unknown identity": (lambda s: {"labels": replaced(s.labels, 4, -1)}, DataError, r"labels\[4\] .* is -1"),
    "one identity": (lambda s: {"labels": np.zeros_like(s.labels)}, DataError, "one identity only"),
    "clusters missing": (lambda s: {"neighbors": s.neighbors[:-1]}, ValueError, "one each a sample"),
    "not self first": (lambda s: {"neighbors": s.neighbors[:, ::-1]}, DataError, r"neighbors\[0\] .* begins with"),
    "an id too high": (lambda s: {"neighbors": replaced(s.neighbors, (2, 3), 10**6)}, DataError, "1000000"),
    "an id below -1": (lambda s: {"neighbors": replaced(s.neighbors, (2, 3), -5)}, DataError, "from -5"),
    "too many neighbours": (lambda s: {"neighbors": np.hstack([s.neighbors] * 2)}, ValueError, "16 ranks"),
    "alone": (lambda s: {"neighbors": s.neighbors[:, :1]}, DataError, "no.* neighbour beside its own centroid"),
    "another width": (lambda s: {"features": s.features[:, :6]}, ValueError, "input_dim = 7"),
    "whole-number features": (lambda s: {"features": s.features.astype(int)}, TypeError, "floating-point"),
    "NaN": (lambda s: {"features": replaced(s.features, (9, 1), np.nan)}, DataError, r"features\[9\]"),
    "empty": (
        lambda s: {"features": s.features[:0], "labels": s.labels[:0], "neighbors": s.neighbors[:0]},
        ValueError,
        "at least 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_before_a_step_and_a_file(samples, new_model, tmp_path, case):
    change, kind, words = BAD[case]
    model = new_model()
    with pytest.raises(kind, match=words) as caught:
        run(model, replace(samples, **change(samples)), output_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(weights(model), weights(new_model()))


@pytest.mark.parametrize("case", [name for name in BAD if name not in ("one identity", "empty")])
def test_bad_validation_data_are_refused_alike(samples, new_model, case):
    change, kind, _ = BAD[case]
    arrays = {name: getattr(samples, name) for name in ("features", "labels", "neighbors")}
    validation = ValidationSet(**{**arrays, **change(samples)}, rows=np.arange(5))
    with pytest.raises(kind):
        run(new_model(), samples, validation=validation)


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        (np.arange(0), ValueError, r"expected \[R\]"),
        (np.ones(5, bool), TypeError, "bool"),
        (np.array([[1, 2]]), ValueError, r"expected \[R\]"),
        (np.array([0, 10**6]), DataError, "1000000"),
        (np.array([-1, 2]), DataError, "from -1"),
    ],
)
def test_bad_validation_rows_are_refused(samples, held_out, new_model, rows, kind, words):
    with pytest.raises(kind, match=words):
        run(new_model(), samples, validation=replace(held_out.as_validation(), rows=rows))


def test_validation_edges_of_one_kind_cannot_choose_an_epoch(samples, held_out, new_model):
    alone = replace(held_out.as_validation(), labels=np.arange(len(held_out.labels)))
    with pytest.raises(DataError, match="no true neighbour or no false one"):
        run(new_model(), samples, validation=alone)


def test_training_edges_of_one_kind_are_no_error(samples, new_model):
    """Neighbourhoods of one identity each are easy, not wrong: there is an AUC of nothing, and no warning about it."""
    neighbors = np.full((len(samples.labels), 4), -1)
    for i, label in enumerate(samples.labels):
        own = [j for j in samples.neighbors[i] if samples.labels[j] == label][:4]
        neighbors[i, : len(own)] = own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(new_model(), samples.features, samples.labels, neighbors, config=QUICK, progress=False)
    assert result.history[-1]["auc"] is None
    assert result.history[-1]["f1"] == 1.0
