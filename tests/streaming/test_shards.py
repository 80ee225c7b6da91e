"""Shards: whatever was lost, cut short, altered or brought from elsewhere is made again by a run and an error to a reader."""

import json
import shutil

import numpy as np
import pytest

from intraformer_fast.errors import DataError
from intraformer_fast.shards import MANIFEST, open_shards

NAMES = ("ids", "values")


def opened(folder, seed=0, rows=10):
    return open_shards(folder, rows, 4, NAMES, {"what": "test", "seed": seed})


def written(folder, seed=0):
    shards = opened(folder, seed)
    for i in shards.missing():
        rows = shards.rows_of(i)
        ids = np.arange(rows.start, rows.stop, dtype=np.int32)
        shards.write(i, ids=ids, values=(ids + seed).astype(np.float32))
    return opened(folder, seed)  # which has not seen what was written


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_dtype(path):
    np.save(path, np.load(path).view(np.float32))


DAMAGE = {
    "lost": (lambda s: s.path("ids", 1).unlink(), r"ids-00001\.npy is missing"),
    "lost seal": (lambda s: s.seal(1).unlink(), r"shard-00001\.json is missing"),
    "cut short": (lambda s: s.path("ids", 1).write_bytes(s.path("ids", 1).read_bytes()[:-1]), "cut short"),
    "one bit": (lambda s: flip_last_byte(s.path("values", 1)), r"shard 1 of .* is damaged"),
    "another dtype": (lambda s: other_dtype(s.path("ids", 1)), r"shard 1 of .* is damaged"),
    "fewer rows": (lambda s: np.save(s.path("ids", 1), np.load(s.path("ids", 1))[:-1]), r"shard 1 of .* is damaged"),
    "another shard": (lambda s: shutil.copy(s.path("ids", 0), s.path("ids", 1)), r"shard 1 of .* is damaged"),
    "a seal that is none": (lambda s: s.seal(1).write_text("{"), r"shard-00001\.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_to_readers_and_mended_by_a_run(tmp_path, damage):
    shards = written(tmp_path)
    spoil, words = DAMAGE[damage]
    spoil(shards)
    with pytest.raises(DataError, match=words):
        shards.read(1)
    assert opened(tmp_path).missing() == [1]
    mended = written(tmp_path)
    assert mended.missing() == []
    np.testing.assert_array_equal(np.concatenate([mended.read(i)[0] for i in range(3)]), np.arange(10))


def test_a_shard_brought_from_another_run_is_not_taken(tmp_path):
    mine, other = written(tmp_path / "a"), written(tmp_path / "b", seed=1)
    for path in (other.path("ids", 2), other.path("values", 2), other.seal(2)):
        shutil.copy(path, tmp_path / "a" / path.name)
    with pytest.raises(DataError, match="or of another run"):
        mine.read(2)
    assert opened(tmp_path / "a").missing() == [2]


def test_a_manifest_of_another_run_is_refused_and_no_file_name_is_read_from_it(tmp_path):
    written(tmp_path / "a")
    with pytest.raises(ValueError, match=r"belongs to another run \(it differs in seed\)"):
        opened(tmp_path / "a", seed=1)
    with pytest.raises(ValueError, match=r"differs in rows"):
        opened(tmp_path / "a", rows=11)
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    (tmp_path / "a" / MANIFEST).write_text(json.dumps({**manifest, "arrays": ["../../ids", "/values"]}))
    with pytest.raises(ValueError, match=r"differs in arrays"):
        opened(tmp_path / "a")
