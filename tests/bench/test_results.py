"""The rows as files: nothing is missing from the stamp, and nothing is another project's."""

import csv
import io
import json
import platform
import shutil
import subprocess
from dataclasses import fields

import pytest
import torch

from intraformer_fast.bench import results
from intraformer_fast.bench.results import Row, Stamp

ROW = Row("op", "[4, 4], bool", "ours", "ours", 100, 0, "FAILED", "of NaN", error_ratio=float("nan"))


@pytest.fixture(scope="module")
def stamp():
    return results.stamp(torch.device("cpu"), 12)


def test_a_stamp_says_where_and_from_what(stamp):
    assert (stamp.device, stamp.seed, stamp.threads) == ("cpu", 12, torch.get_num_threads())
    assert (stamp.python, stamp.torch) == (platform.python_version(), torch.__version__)
    assert stamp.machine
    assert stamp.cores >= 1
    assert stamp.date.endswith("+00:00")


def test_csv_has_the_stamp_on_every_row(stamp):
    read = list(csv.DictReader(io.StringIO(results.to_csv(stamp, [ROW, ROW]))))
    assert len(read) == 2
    assert list(read[0]) == [field.name for kind in (Stamp, Row) for field in fields(kind)]
    for row in read:
        assert (row["machine"], row["commit"], row["seed"]) == (stamp.machine, stamp.commit, "12")
        assert (row["case"], row["parity"], row["median"]) == ("[4, 4], bool", "FAILED", "")


def test_json_has_no_nan(stamp):
    read = json.loads(json.dumps(results.to_json(stamp, [ROW]), allow_nan=False))
    assert read["rows"][0]["error_ratio"] is None
    assert read["stamp"]["torch"] == torch.__version__


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_commit_of_the_sources_and_of_nothing_else(tmp_path, monkeypatch):
    def git(*arguments):
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *options, *arguments], check=True, capture_output=True)

    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    source, installed = tmp_path / "source.py", tmp_path / "site-packages" / "installed.py"
    for file in (source, installed):
        file.parent.mkdir(exist_ok=True)
        file.write_text("1")
    assert results.source_commit(source) == ("unknown", False)
    git("init", "-q")
    git("add", "source.py")
    git("commit", "-q", "-m", "first")
    commit, dirty = results.source_commit(source)
    assert len(commit) == 40
    assert not dirty
    source.write_text("2")
    assert results.source_commit(source) == (commit, True)
    assert results.source_commit(installed) == ("unknown", False)
    monkeypatch.setenv("PATH", "")
    assert results.source_commit(source) == ("unknown", False)
