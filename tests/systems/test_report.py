"""Tables and pages of a comparison, from outcomes made by hand."""

import csv
import io

import numpy as np
import pytest
import torch

from intraformer_fast.bench import results
from intraformer_fast.bench.systems import page, published
from intraformer_fast.bench.systems.command import SystemsReport
from intraformer_fast.bench.systems.outcomes import Outcome
from intraformer_fast.bench.systems.summary import summarize


def outcome(name, seed, a, b):
    """Group scores a and b in every metric."""
    scores = {metric: {"north": a, "south": b, "all": (a + b) / 2} for metric in ("F_P", "F_B", "NMI")}
    times = {"train_seconds": 10.0 * (seed + 1), "cluster_seconds": 1.0, "cpu_seconds": 9.0}
    said = {"chosen": "a threshold", "notes": {"speed": "twice as fast"}}
    return Outcome(name, seed, {}, scores=scores, clusters=7, threads=1, **times, **said)


@pytest.fixture
def report(entry, constant):
    entries = {
        "gcn-v": entry(constant(), title="GCN-V"),
        "omhc": entry(constant(), "ours", "OMHC <best>"),
        "infomap": entry(constant(), "untrained", "k-NN + Infomap"),
    }
    outcomes = [
        outcome("gcn-v", 0, 0.5, 0.7),
        outcome("gcn-v", 1, 0.6, 0.8),
        outcome("omhc", 0, 0.8, 0.9),
        Outcome("omhc", 1, {}, "RuntimeError: out of memory"),
        Outcome("infomap", 0, {}, "it is not installed"),
    ]
    stamp = results.stamp(torch.device("cpu"), 0)
    return SystemsReport(page.Content(stamp, summarize(entries, outcomes), "two groups", "bench systems"), outcomes)


def test_lines_are_means_over_seeds_with_their_spread(report):
    best, second, failed = report.content.lines
    assert (best.name, second.name, failed.name) == ("omhc", "gcn-v", "infomap")
    cells = second.cells["F_P"]
    assert list(cells) == ["north", "south", "mean", "STD", "all"]
    assert cells["north"].mean == pytest.approx(0.55)
    assert cells["north"].spread == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert cells["mean"].mean == pytest.approx(0.65)
    assert cells["STD"].mean == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert str(cells["mean"]) == "65.0 ±7.1"
    assert second.seconds == (15, 1, 9)
    assert str(best.cells["F_P"]["mean"]) == "85.0"  # one seed has no spread
    assert best.failures == ["seed 1: RuntimeError: out of memory"]
    assert failed.cells == {}


def test_text_and_pages_hold_scores_failures_and_published_figures(report):
    for shown in (report.text(), page.markdown(report.content), page.html(report.content)):
        assert "65.0 ±7.1" in shown
        assert "out of memory" in shown
        assert "it is not installed" in shown
    for shown in (page.markdown(report.content), page.html(report.content)):
        assert "78.89" not in shown  # GCN-V/E is not in this comparison
        assert "75.1" in shown  # GCN-V on BUPT
        assert "Published on other data" in shown
        assert "twice as fast" in shown
    assert "OMHC &lt;best&gt;" in page.html(report.content)
    assert report.exit_code == 3


def test_csv_has_a_row_a_score(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert len(rows) == 3 * 9 + 2
    assert {row["failure"] for row in rows} == {"", "RuntimeError: out of memory", "it is not installed"}
    (one,) = [r for r in rows if (r["system"], r["seed"], r["metric"], r["group"]) == ("gcn-v", "1", "NMI", "south")]
    assert float(one["value"]) == 0.8
    assert (one["train_seconds"], one["cpu_seconds"]) == ("20.0", "9.0")


def test_files(report, tmp_path):
    report.write(tmp_path / "out")
    names = {
        "systems.html",
        "systems.md",
        "systems.csv",
        "published.csv",
        "mean-and-std.png",
        "groups.png",
        "spread.png",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "spread.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_but_failures_is_a_page_too(entry, constant):
    outcomes = [Outcome("gcn-v", 0, {}, "no luck")]
    lines = summarize({"gcn-v": entry(constant())}, outcomes)
    content = page.Content(results.stamp(torch.device("cpu"), 0), lines, "nothing", "bench systems")
    assert "no luck" in page.html(content)
    assert "no luck" in page.text(content)


def test_published_figures_stand_beside_the_system_they_are_of():
    rows = published.read()
    assert published.beside("gcn-v", rows) == ["75.1", "8.75", "", "", "", ""]
    assert published.beside("omhc", rows) == ["85.96", "6.37", "92.32", "3.22", "93.2", "92.2"]
    assert published.beside("infomap", rows) == ["", "", "", "", "93.9", "92.4"]
    assert published.beside("ada-nets", rows) == published.beside("k-means", rows) == [""] * 6
