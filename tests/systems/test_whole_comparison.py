"""All systems on a small part of the example, as a person runs them."""

import json
import sys

import pytest

from intraformer_fast.bench.systems import catalog
from intraformer_fast.cli import main

# These need a package that is copyleft, and no other extra installs.
OPTIONAL = {"infomap", "fc-es"}


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["intraformer-fast", "bench", "systems", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


@pytest.mark.slow
def test_every_system_runs_and_the_command_goes_on_where_it_stopped(monkeypatch, capsys, tmp_path):
    options = ["--quick", "--classes", 24, "--seeds", 1, "--output", tmp_path, "--threads", 1]
    # What was done before is part of the whole.
    assert run(monkeypatch, capsys, "components", "gcn-v", *options)[0] == 0
    done = (tmp_path / "runs" / "gcn-v-0.json").stat().st_mtime_ns
    code, out, _ = run(monkeypatch, capsys, *options, "--json")
    found = {one["name"]: one for one in json.loads(out)["outcomes"]}
    assert list(found) == list(catalog.PUBLISHED)
    failed = {name for name, one in found.items() if one["failure"]}
    assert failed <= OPTIONAL, {name: found[name]["failure"] for name in failed}
    assert code == (3 if failed else 0)
    assert (tmp_path / "runs" / "gcn-v-0.json").stat().st_mtime_ns == done
    for name in ("components", "hdbscan", "rank-cutoff", "chinese-whispers", "gcn-v"):
        assert found[name]["scores"]["F_P"]["all"] > 0.7, name
    assert "times as fast with accelerate()" in found["omhc"]["notes"]["inference"]
    text = (tmp_path / "systems.html").read_text(encoding="utf-8")
    for name, entry in catalog.PUBLISHED.items():
        assert name in failed or entry.title.replace("'", "&#x27;") in text


def test_options_of_other_benchmarks_are_refused(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "--rounds", 3)
    assert code == 3
    assert "`bench systems` does not take" in err
    code, _, err = run(monkeypatch, capsys, "gcn")
    assert code == 3
    assert "no system 'gcn'" in err
    monkeypatch.setattr(sys, "argv", ["intraformer-fast", "bench", "purity_fmi", "--classes", "3"])
    with pytest.raises(SystemExit):
        main()
    assert "--classes belongs to `bench systems`" in capsys.readouterr().err
