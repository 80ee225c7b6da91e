"""The command from end to end, in its exit codes, its files and its words."""

import csv
import json
import sys

import pytest
import torch

from intraformer_fast import native
from intraformer_fast.bench import memory, registry

FILES = ["benchmarks.html", "benchmarks.md", "results.csv"]


def test_whole_path(tiny, command, tmp_path):
    threads = torch.get_num_threads()
    done = command("tiny", "--rounds", 3, "--threads", 1, "--seed", 9, "--output", tmp_path / "out")
    assert done.returncode == 0
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert "## tiny" in done.stdout
    assert "absent did not run (NotImplementedError: no such compiler here)" in done.stdout
    assert done.stdout.strip() in (tmp_path / "out" / "benchmarks.md").read_text()
    assert done.stderr.splitlines() == [f"tiny: {case.label}" for case in registry.BENCHMARKS["tiny"].cases]
    read = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["candidate"] for row in read] == ["ours", "eager", "absent", "torch.add", "ours", "eager", "torch.add"]
    assert {(row["threads"], row["seed"], row["benchmark"]) for row in read} == {("1", "9", "tiny")}
    ours = read[0]
    assert ours["parity"] == "passed"
    assert ours["rounds"] == "3"
    assert 0 < float(ours["min"]) <= float(ours["p25"]) <= float(ours["median"]) <= float(ours["p75"])
    assert (ours["extra_bytes"] != "") == memory.CLEAR_REFS.exists()


def test_a_wrong_candidate_shows_no_speed_and_ends_in_1(tiny, command):
    done = command("tiny", "wrong", "--quick", "--json")
    assert done.returncode == 1
    rows = {(row["benchmark"], row["candidate"]): row for row in json.loads(done.stdout)["rows"]}
    assert rows["tiny", "ours"]["median"] > 0
    wrong = rows["wrong", "ours"]
    assert wrong["parity"] == "FAILED"
    assert wrong["error_ratio"] > 2
    assert wrong["median"] is wrong["of_limit"] is rows["wrong", "eager"]["ours_faster"] is None
    text = command("wrong", "--quick").stdout
    assert "ours FAILED parity (the error of probability is" in text


def test_ours_that_cannot_run_here_ends_in_3(tiny, own_registry, command):
    cases = [tiny.case(tiny.refuses)]
    registry.register("refused", "Needs what is not here.")(lambda: cases)
    done = command("refused", "--quick")
    assert done.returncode == 3
    assert "ours did not run (NotImplementedError: no such compiler here)" in done.stdout


@pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)
def test_quick_times_the_first_shape_of_purity_fmi(command, monkeypatch):
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: function
    )  # its compiler is not under test, and slow
    answer = json.loads(command("purity_fmi", "--quick", "--json").stdout)
    assert [row["candidate"] for row in answer["rows"]] == ["ours", "eager", "torch.compile", "torch.add"]
    assert {row["case"] for row in answer["rows"]} == {"[4096, 256] float32 logits, bool targets"}
    assert {row["parity"] for row in answer["rows"]} == {"passed", "none"}
    assert answer["rows"][0]["rounds"] == 5


def test_list(tiny, command):
    assert "tiny                      The softmax of each row." in command("--list").stdout
    found = json.loads(command("--list", "tiny", "--json").stdout)
    assert found["tiny"]["devices"] == ["cpu"]
    assert found["tiny"]["cases"]["the same again"] == ["eager", "ours"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("huge",), 3, "no benchmark 'huge': expected some of block_attention, block_attention_cpu, "),
        (("--list", "huge"), 3, "no benchmark 'huge'"),
        (("--device", "tpu"), 3, "device = 'tpu': expected cpu or cuda"),
        (("--threads", 0), 2, "--threads"),
        (("--rounds", 0), 2, "--rounds"),
        (("--rounds", "ten"), 2, "--rounds"),
    ],
)
def test_bad_input(arguments, code, words, tiny, command):
    done = command(*arguments)
    assert done.returncode == code
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--samples", 3), "`bench` does not take --samples: expected some of --device, --threads, --rounds, --seed; "),
        (("--samples", 3), "--samples belongs to `bench --all` or `bench scale`"),
        (("scale", "--device", "cuda", "--rounds", 1), "`bench scale` does not take --device, --rounds"),
        (("--facts", "--compare", "HEAD"), "`bench --facts` does not take --compare"),
        (("--redraw",), "--redraw belongs to `bench --all`"),
    ],
)
def test_an_option_of_another_kind_of_run(arguments, words, command):
    done = command(*arguments)
    assert done.returncode == 3
    assert words in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(command):
    done = command("--device", "cuda")
    assert done.returncode == 3
    assert "sees no CUDA device here; expected cpu" in done.stderr


def test_a_benchmark_of_another_device(tiny, own_registry, command):
    registry.register("far", "Only elsewhere.", devices=("cuda",))(lambda: [tiny.case(tiny.written_out)])
    done = command("far")
    assert done.returncode == 3
    assert "far does not run on cpu: expected device cuda" in done.stderr


def test_without_pytest_benchmark(tiny, command, monkeypatch):
    for name in ("pytest_benchmark.plugin", "pytest_benchmark.stats"):
        monkeypatch.setitem(sys.modules, name, None)
    done = command("tiny", "--quick")
    assert done.returncode == 3
    assert "pip install 'intraformer-fast[bench]'" in done.stderr


def test_a_folder_that_cannot_be_written(tiny, command, tmp_path):
    (tmp_path / "blocked").write_text("")
    done = command("tiny", "--quick", "--rounds", 1, "--output", tmp_path / "blocked")
    assert done.returncode == 3
    assert "blocked" in done.stderr
