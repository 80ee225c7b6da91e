"""predict_probability: values, memory-mapped tables, files, refusals."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import disks

from intraformer_fast.errors import DataError
from intraformer_fast.inference import predict_probability


def predict(model, samples, **options):
    return predict_probability(model, samples.features, samples.neighbors, **{"progress": False, **options})


def by_hand(model, features, neighbors):
    """One cluster at a time, float64."""
    model = model.double().eval()
    rows = []
    for ids in neighbors:
        x = torch.from_numpy(features[np.maximum(ids, 0)]).double()[None]
        valid = torch.from_numpy(ids >= 0)[None]
        with torch.no_grad():
            rows.append((model(x, valid).sigmoid() * valid)[0].numpy())
    model.float()
    return np.array(rows)


def test_probabilities_are_the_sigmoid_of_the_models_answer(samples, new_model):
    model = new_model()
    neighbors = samples.neighbors.copy()
    neighbors[::4, 9:] = -1
    neighbors[7] = -1
    expected = by_hand(model, samples.features, neighbors)
    probability = predict_probability(model, samples.features, neighbors, precision="fp32", progress=False)
    assert probability.dtype == np.float32
    assert probability.shape == neighbors.shape
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert (probability[neighbors < 0] == 0).all()
    assert (probability[neighbors >= 0] > 0).all()


def test_batches_change_nothing_beyond_rounding(samples, new_model):
    model = new_model()
    whole = predict(model, samples, precision="fp32", batch_size=1000)
    for batch_size in (1, 7):
        np.testing.assert_allclose(predict(model, samples, precision="fp32", batch_size=batch_size), whole, atol=1e-6)
    assert np.array_equal(whole, predict(model, samples, precision="fp32", batch_size=1000))


def test_bf16_is_near_fp32_and_not_the_same(samples, new_model):
    model = new_model()
    exact, rounded = predict(model, samples, precision="fp32"), predict(model, samples, precision="bf16")
    assert 0 < np.abs(exact - rounded).max() < 0.02


def test_memory_mapped_tables_and_result(samples, new_model, tmp_path):
    model = new_model()
    np.save(tmp_path / "features.npy", samples.features)
    np.save(tmp_path / "neighbors.npy", samples.neighbors.astype(np.int32))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    neighbors = np.load(tmp_path / "neighbors.npy", mmap_mode="r")
    out = tmp_path / "new" / "probability.npy"
    written = predict_probability(model, features, neighbors, out=out, batch_size=9, progress=False)
    np.testing.assert_array_equal(written, predict(model, samples, batch_size=9))
    np.testing.assert_array_equal(np.load(out), written)
    assert isinstance(written, np.memmap)
    assert not written.flags.writeable
    assert [path.name for path in out.parent.iterdir()] == ["probability.npy"]


def test_tensors_are_taken_as_well(samples, new_model):
    model = new_model()
    found = predict_probability(
        model, torch.from_numpy(samples.features), torch.from_numpy(samples.neighbors), progress=False
    )
    np.testing.assert_array_equal(found, predict(model, samples))


def test_a_table_in_half_precision_is_converted_by_the_batch(samples, new_model):
    half = samples.features.astype(np.float16)
    found = predict_probability(new_model(), half, samples.neighbors, precision="fp32", progress=False)
    expected = predict_probability(
        new_model(), half.astype(np.float32), samples.neighbors, precision="fp32", progress=False
    )
    np.testing.assert_array_equal(found, expected)


def test_the_model_keeps_its_mode_and_is_used_without_dropout(samples, new_model):
    model = new_model(dropout=0.5).train()
    assert np.array_equal(predict(model, samples), predict(model, samples))
    assert model.training
    assert not torch.is_inference_mode_enabled()
    predict(model.eval(), samples)
    assert not model.training


def test_the_products_setting_is_the_callers_again(samples, new_model):
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ValueError, match="precision"):
        predict(new_model(), samples, precision="fp64")
    predict(new_model(), samples)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_any_rows_of_a_neighbour_table_can_be_asked_for(samples, new_model):
    model = new_model()
    rows = np.array([5, 3, 5])
    some = predict_probability(model, samples.features, samples.neighbors[rows], precision="fp32", progress=False)
    np.testing.assert_allclose(some, predict(model, samples, precision="fp32")[rows], atol=1e-6)


def replaced(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD = {
    "features of another width": (lambda s: (s.features[:, :5], s.neighbors), ValueError, r"\[N, 7\]"),
    "flat features": (lambda s: (s.features[0], s.neighbors), ValueError, r"\[N, 7\]"),
    "no features": (lambda s: (s.features[:0], s.neighbors), ValueError, "at least 1"),
    "no clusters": (lambda s: (s.features, s.neighbors[:0]), ValueError, "at least 1"),
    "no columns": (lambda s: (s.features, s.neighbors[:, :0]), ValueError, "at least 1"),
    "whole-number features": (
        lambda s: (s.features.astype(np.int32), s.neighbors),
        TypeError,
        "features is torch.int32",
    ),
    "objects": (lambda s: (s.features.astype(object), s.neighbors), TypeError, "features cannot be used"),
    "fractional ids": (lambda s: (s.features, s.neighbors.astype(float)), TypeError, "neighbors is torch.float64"),
    "too many neighbours": (lambda s: (s.features, np.hstack([s.neighbors] * 2)), ValueError, "learned 16 ranks"),
    "an id too high": (lambda s: (s.features, replaced(s.neighbors, (3, 4), 10**6)), DataError, "1000000"),
    "an id below -1": (lambda s: (s.features, replaced(s.neighbors, (3, 4), -2)), DataError, "from -2"),
    "NaN": (lambda s: (replaced(s.features, (11, 2), np.nan), s.neighbors), DataError, r"features\[11\]"),
    "infinity": (lambda s: (replaced(s.features, (11, 2), np.inf), s.neighbors), DataError, r"features\[11\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_in_words(samples, new_model, tmp_path, case):
    make, kind, words = BAD[case]
    features, neighbors = make(samples)
    with pytest.raises(kind, match=words):
        predict_probability(new_model(), features, neighbors, out=tmp_path / "p.npy", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_bad_batch_size_is_refused(samples, new_model):
    with pytest.raises(ValueError, match="batch_size = 0"):
        predict(new_model(), samples, batch_size=0)


def test_damaged_weights_give_an_error_not_a_file(samples, new_model, tmp_path):
    model = new_model()
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    with pytest.raises(DataError, match="cluster 0 is not finite"):
        predict(model, samples, out=tmp_path / "p.npy")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused(samples, new_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*p\.npy"):
        predict(new_model(), samples, out=tmp_path / "file" / "p.npy")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 KiB."""
    with disks.small_disk(tmp_path, 64 * 1024):
        yield tmp_path


def test_a_full_disk_gives_an_error_and_leaves_the_old_file(samples, new_model, small_disk):
    old = predict(new_model(), samples, out=small_disk / "p.npy").copy()
    many = np.tile(samples.neighbors, (20, 1))
    with pytest.raises(OSError, match=r"cannot write .*p\.npy.*No space left") as caught:
        predict_probability(new_model(), samples.features, many, out=small_disk / "p.npy", progress=False)
    assert caught.value.errno == errno.ENOSPC
    np.testing.assert_array_equal(np.load(small_disk / "p.npy"), old)
    assert [path.name for path in small_disk.iterdir()] == ["p.npy"]


WITHIN_LIMITED_MEMORY = """
import resource, sys
import numpy as np
from intraformer_fast import nn
from intraformer_fast.inference import predict_probability

features = np.load(sys.argv[1], mmap_mode="r")
neighbors = np.random.default_rng(0).integers(0, len(features), (2000, 16))
model = nn.Intraformer(8, 16, 2, 1, 2, input_dim=features.shape[1])
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 128 * 2**20,) * 2)
try:
    np.ones(256 * 2**20, np.uint8)
except MemoryError:
    print("limited")
predict_probability(model, features, neighbors, progress=False)
print("predicted")
"""


def test_memory_is_that_of_a_batch_and_not_of_the_table(tmp_path):
    # 512 MiB that occupy nothing on disk, read by a process that may have 128 MiB more than its start.
    np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, (2**21, 64)).flush()
    command = [sys.executable, "-c", WITHIN_LIMITED_MEMORY, tmp_path / "features.npy"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["limited", "predicted"], done.stderr


def test_the_bar_is_on_stderr_and_can_be_silenced(samples, new_model, capfd):
    predict(new_model(), samples)
    assert capfd.readouterr() == ("", "")
    predict(new_model(), samples, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "predicting: 100%" in err
