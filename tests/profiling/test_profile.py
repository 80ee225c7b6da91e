"""A profile accounts for the whole work, tells measurements from estimates, and gives a reason with every suggestion."""

import json

import numpy as np
import pytest
import torch

from intraformer_fast import graph, nn, profiling
from intraformer_fast.checkpoint import save_model
from intraformer_fast.cli import main
from intraformer_fast.data import synthetic, write_neighbors
from intraformer_fast.errors import DataError
from intraformer_fast.profiling import run, suggestions
from intraformer_fast.profiling.growth import SearchCost, comparisons
from intraformer_fast.profiling.measure import Clock, by_op
from intraformer_fast.profiling.report import duration
from intraformer_fast.selection import Linking

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ["batch size", "precision", "threads", "backend", "index", "cascade"]
STAGES = ["read, normalize", "k-NN graph", "gather", "model", "linking"]
SAMPLES = 400


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Features, their graph, and a model that counts as trained, with four sub-clusters."""
    folder = tmp_path_factory.mktemp("profiled")
    features = synthetic(SAMPLES, dim=32, mean_size=20).features
    np.save(folder / "features.npy", features)
    write_neighbors(folder / "knn.npz", *graph.knn_graph(features, 16))
    torch.manual_seed(0)
    model = nn.Intraformer(32, 16, num_subclusters=4, num_layers=1)
    save_model(folder / "model.safetensors", model, {"linking": Linking(threshold=0.4).to_dict()})
    return folder


@pytest.fixture(scope="module")
def trained(files):
    subject = profiling.load_subject(files / "features.npy", model=files / "model.safetensors")
    return profiling.profile(subject, seconds=60)


@pytest.fixture
def command(capsys, monkeypatch):
    def run_command(*arguments):
        monkeypatch.setattr("sys.argv", ["intraformer-fast", "profile", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def test_every_stage_and_setting_is_told_of(trained):
    assert [stage.name for stage in trained.stages] == STAGES
    assert [one.subject for one in trained.suggestions] == SETTINGS
    assert all(stage.seconds > 0 for stage in trained.stages)
    assert all(one.text for one in trained.suggestions)


def test_a_small_set_is_measured_in_full_and_nothing_is_estimated(trained):
    assert trained.measured == {"samples": SAMPLES, "clusters": SAMPLES}
    assert trained.estimate == pytest.approx(sum(stage.seconds for stage in trained.stages))
    assert "measured in full" in str(trained)
    assert not any(stage.rule for stage in trained.stages)


def test_a_larger_set_is_estimated_by_the_rule_that_is_told(files, monkeypatch):
    monkeypatch.setattr(run, "SUBSET", 100)
    subject = profiling.load_subject(files / "features.npy", model=files / "model.safetensors")
    found = profiling.profile(subject, seconds=60)
    assert found.measured == {"samples": 100, "clusters": 100}
    for stage in found.stages:
        if stage.name == "k-NN graph":
            assert 3.99 <= stage.estimate / stage.seconds <= 16.01  # between the number of samples and its square
            assert "exact ones among 100 and half as many, measured" in stage.rule
        else:
            assert stage.estimate == pytest.approx(4 * stage.seconds)
            assert "100 measured" in stage.rule
    assert "the rest is estimated" in str(found)
    assert found.to_dict()["estimate"]["is"] == "an estimate from the measured part"


def test_time_that_is_up_ends_the_measurement_after_a_batch(files, monkeypatch):
    monkeypatch.setattr(run, "BATCH", 64)
    subject = profiling.load_subject(files / "features.npy", model=files / "model.safetensors")
    found = profiling.profile(subject, seconds=1e-9)
    assert found.measured == {"samples": SAMPLES, "clusters": 64}
    model, linking = (next(s for s in found.stages if s.name == name) for name in ("model", "linking"))
    assert model.estimate == pytest.approx(model.seconds * SAMPLES / 64)
    assert linking.rule == "the answers for 64 clusters, repeated"
    assert "not compared" in found.suggestions[0].text


def test_ops_are_the_models_and_account_for_its_time(trained):
    assert sum(op.share for op in trained.ops) == pytest.approx(1)
    named = [op for op in trained.ops if op.name != "other"]
    assert [op.seconds for op in named] == sorted((op.seconds for op in named), reverse=True)
    assert any("encoder_block" in op.name or op.name == "aten::addmm" for op in named)


def test_what_a_trained_model_is_judged_by(trained):
    cascade = trained.suggestions[-1]
    assert set(cascade.measured) == {
        "0.0",
        *(f"{f}" for f in suggestions.FLOORS),
        *(f"lost_{f}" for f in suggestions.FLOORS),
    }
    assert all(0 <= cascade.measured[f"lost_{floor}"] <= 1 for floor in suggestions.FLOORS)
    precision = next(one for one in trained.suggestions if one.subject == "precision")
    assert {"fp32", "bf16"} <= set(precision.measured)
    assert precision.change == ("share_moved" in precision.measured)


def test_a_given_graph_is_read_and_not_searched(files):
    subject = profiling.load_subject(files / "features.npy", graph=files / "knn.npz", model=files / "model.safetensors")
    found = profiling.profile(subject, seconds=60)
    searched = found.stages[1]
    assert (searched.samples, searched.rule, searched.estimate) == (
        SAMPLES,
        "read from its file, in full",
        searched.seconds,
    )
    assert next(one for one in found.suggestions if one.subject == "index").text == "the graph was given"


def test_a_graph_of_other_samples_is_refused(files, tmp_path):
    np.save(tmp_path / "other.npy", synthetic(50, dim=32).features)
    with pytest.raises(DataError, match="400"):
        profiling.load_subject(tmp_path / "other.npy", graph=files / "knn.npz")


def test_the_command_writes_a_report_and_a_trace_of_all_stages(files, tmp_path, command):
    code, out, _ = command(
        files / "features.npy",
        "--neighbors",
        16,
        "--seconds",
        0.3,
        "--output",
        tmp_path / "profile",
        "--trace",
        "--json",
    )
    assert code == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert found["subject"]["samples"] == SAMPLES
    assert "random weights" in found["subject"]["model"]
    assert "whole set (estimate)" in (tmp_path / "profile" / "profile.txt").read_text()
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    assert {"k-NN graph", "gather", "model", "linking"} <= {event.get("name") for event in trace["traceEvents"]}


def test_made_up_samples(command):
    code, out, _ = command("--samples", 120, "--dim", 16, "--neighbors", 8, "--seconds", 0.1)
    assert code == 0
    assert out.startswith("120 samples of width 16 (made up), 8 neighbours (searched)")
    assert "a made-up model's answers say nothing" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("features.npy", "--samples", 100), "--samples makes features up"),
        (("--knn", "knn.npz"), "--knn is a graph of the samples of a feature file"),
        (("features.npy", "--model", "model.safetensors", "--neighbors", 8), "--neighbors belongs to a made-up model"),
        (("features.npy", "--trace"), "--trace writes a file"),
        (("features.npy", "--seconds", 0), "expected a positive number"),
        (("features.npy", "--precision", "fp8"), "expected one of"),
        (("nothing.npy",), "nothing.npy"),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence(arguments, sentence, files, command, monkeypatch):
    monkeypatch.chdir(files)
    code, _, err = command(*arguments)
    assert code == 3
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_what_one_sample_is_compared_with():
    assert comparisons("exact", 4000) == 4000
    # 200 lists, as many as are looked into at least; 400 lists, 12 of them; 4,000 lists, 125 of them.
    assert comparisons("ivf", 2_500) == 200 + 100
    assert comparisons("ivf", 10_000) == 400 + 300
    assert comparisons("ivf", 1_000_000) == 4000 + 31_250


def test_the_cost_of_a_search_from_two_of_them():
    cost = SearchCost(per_sample=1e-4, per_comparison=2e-8)
    found = SearchCost.of_exact(10_000, cost.seconds("exact", 10_000), cost.seconds("exact", 5_000))
    assert found.seconds("exact", 80_000) == pytest.approx(cost.seconds("exact", 80_000))
    assert found.seconds("ivf", 80_000) == pytest.approx(cost.seconds("ivf", 80_000))


@pytest.mark.parametrize(("half", "whole_of_twice"), [(0.1, 4.0), (0.9, 2.0)])
def test_clocks_that_disagree_make_no_part_negative(half, whole_of_twice):
    cost = SearchCost.of_exact(1000, 1.0, half)
    assert min(cost.per_sample, cost.per_comparison) >= 0
    assert cost.seconds("exact", 1000) == pytest.approx(1)
    assert cost.seconds("exact", 2000) == pytest.approx(whole_of_twice)


def test_probabilities_to_link_by():
    measured = np.array([[1, 0.5, 0.1], [1, 0.7, 0.2]], np.float32)
    assert run.probability_to_link(measured, 5, trained=True)[:, 1].tolist() == pytest.approx([0.5, 0.7, 0.5, 0.7, 0.5])
    assert run.probability_to_link(measured, 2, trained=False).tolist() == [[1, 1, 0], [1, 1, 0]]


def test_a_clock_sees_what_its_block_holds():
    clock = Clock(torch.device("cpu"))
    for size in (2**20, 2**26, 2**20):
        with clock.lap():
            held = torch.ones(size, dtype=torch.uint8)
            del held
    assert len(clock.laps) == 3
    if clock.peak_bytes is None:
        pytest.skip("this system does not tell the high water of memory")
    assert 0.9 * 2**26 < clock.peak_bytes < 2**27


def test_ops_of_some_work():
    a = torch.randn(300, 300)
    ops = by_op(lambda: [a @ a for _ in range(5)], torch.device("cpu"))
    assert (ops[0].name, ops[0].calls) == ("aten::mm", 5)


def test_durations_for_people():
    assert [duration(s) for s in (2e-5, 0.25, 3.0, 600, 9000)] == ["20 us", "250 ms", "3 s", "10 min", "2.5 h"]
