"""`bench scale`: one clustering measured, the growth fitted, what was not run labelled as such."""

import csv
import io
from pathlib import Path

import pytest
import torch

from intraformer_fast import nn
from intraformer_fast.bench import results
from intraformer_fast.bench.scale import child, linking
from intraformer_fast.bench.scale.command import MODEL, STAGES, ScaleReport, run_scale
from intraformer_fast.checkpoint import save_model
from intraformer_fast.selection import Linking

STAGES_AND_MORE = {*STAGES, "samples", "seconds", "data", "anonymous_bytes", "resident_bytes", "index", "recall"}


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    torch.manual_seed(0)
    model = nn.Intraformer(**{**MODEL, "num_layers": 1})
    save_model(folder / "model" / "model.safetensors", model, {"linking": Linking("intimacy", 0.0).to_dict()})
    return child.main(folder, 500, 20, 0.0)


def report(row, exponent):
    """Sizes whose stages all grow with that exponent."""
    rows = []
    for n in (1000, 2000, 4000):
        unit = n**exponent / 1e4
        rows.append(
            {**row, "samples": n, "seconds": 4 * unit, "neighbors": unit, "prediction": 2 * unit, "linking": unit}
        )
    return ScaleReport(results.stamp(torch.device("cpu"), 0), rows)


def test_a_clustering_is_measured(row):
    assert row.keys() > STAGES_AND_MORE
    assert row["seconds"] == pytest.approx(sum(row[stage] for stage in STAGES))
    assert 0 < row["anonymous_bytes"] < row["resident_bytes"]
    assert (row["recall"], row["flops_share"]) == (1, 1)
    assert 0 <= row["pairwise_f"] <= 1


def test_the_exponent_is_that_of_the_growth_and_carries_on_beyond(row):
    made = report(row, 1.25)
    assert made.exponent() == pytest.approx(1.25)
    assert made.extrapolated()[1_000_000] == pytest.approx(4 * 10**7.5 / 1e4)
    assert "1,000,000  about" in made.text()
    assert "extrapolated, not run" in made.text()
    assert "N^1.25 (neighbors 1.25" in made.text()
    assert ScaleReport(made.stamp, made.rows[:1]).exponent() is None
    large = [{**row, "samples": n, **dict.fromkeys(("seconds", *STAGES), float(n))} for n in (10**5, 10**6)]
    both = ScaleReport(made.stamp, [*made.rows, *large])
    assert both.exponent(least=10**5) == pytest.approx(1)
    assert "N^1.00 from 100,000 samples on (neighbors 1.00" in both.text()


def test_files(row, tmp_path):
    report(row, 1.0).write(tmp_path / "out")
    assert {path.name for path in Path(tmp_path / "out").iterdir()} == {"scale.csv", "scale.txt", "scale.png"}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "scale.csv").read_text())))
    assert [int(found["samples"]) for found in rows] == [1000, 2000, 4000]
    assert (tmp_path / "out" / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_made_up_edges_are_linked_into_their_groups():
    made = linking.main(2000, 20, "intimacy")
    # The last group begins earlier than its place, so as to be whole: its first samples are another's.
    assert made["groups"] - 1 <= made["clusters"] <= made["groups"]
    assert 0.99 * 2000 * 20 < made["edges"] <= 2000 * 20
    assert 0 < made["reading"] < made["seconds"]


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="expected at least 10000"):
        run_scale(most=10, threads=1, quick=False, say=print)
