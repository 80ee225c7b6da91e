"""The demo on a small part of the example: trains, chooses, compares and writes its page."""

import numpy as np
import pytest

from intraformer_fast import demo
from intraformer_fast.data import load_example


@pytest.fixture
def small_example(monkeypatch):
    def load(name, split):
        whole = load_example(name, split)
        return whole.subset(whole.labels % 30 == 1)

    monkeypatch.setattr(demo, "load_example", load)


def test_demo_writes_its_page_and_goes_on_after_a_stop(small_example, tmp_path):
    told = []
    page, tables = demo.run_demo(tmp_path, epochs=1, say=told.append)
    text = page.read_text(encoding="utf-8")
    methods = [one.name for one in demo.CONFIGURATIONS] + [
        "rank cut-off, the same linking", "connected components", "k-means, true number given",
        "average linkage", "HDBSCAN",
    ]  # fmt: skip
    for method in methods:
        assert method.split(",")[0] in text
        assert sum(line.startswith(f"{method}  ") for line in tables.splitlines()) == 3
    for metric in ("F_P", "F_B", "NMI"):
        assert any(line.startswith(metric) and line.rstrip().endswith("all") for line in tables.splitlines())
    for picture in ("groups-pairwise-f.png", "pairs-1.png", "pairs-3.png", "cluster-3.png", "training-2.png"):
        assert (tmp_path / picture).stat().st_size > 1000
        assert picture in text
    models = sorted((tmp_path / "models").glob("*/model.safetensors"))
    assert len(models) == len(demo.CONFIGURATIONS)
    # What is trained is not trained again, and everything comes out the same.
    times = [path.parent.joinpath("checkpoint.safetensors").stat().st_mtime_ns for path in models]
    assert demo.run_demo(tmp_path, epochs=1, say=told.append)[1] == tables
    assert times == [path.parent.joinpath("checkpoint.safetensors").stat().st_mtime_ns for path in models]


def test_contact_sheets_show_what_they_say():
    data = load_example("glyphs", "test").subset(np.arange(2000))
    # Identity 0 of the labels here is split in two, two others are merged, the rest are right.
    identities, counts = np.unique(data.labels, return_counts=True)
    big = identities[counts >= 30]
    clusters = np.searchsorted(identities, data.labels)
    members = np.flatnonzero(data.labels == big[0])
    clusters[members[: len(members) // 2]] = len(identities)
    clusters[data.labels == big[1]] = clusters[data.labels == big[2]][0]
    good, split, merged = demo.contact_sheets(data, np.unique(clusters, return_inverse=True)[1])
    assert good.majority.all()
    assert "100 % of all there are" in good.caption
    assert split.majority.all()
    assert set(split.labels) == {data.class_names[big[0]]}
    assert set(merged.labels) == {data.class_names[big[1]], data.class_names[big[2]]}
    assert 0 < merged.majority.sum() < len(merged.labels)
