"""`bench --facts` from end to end: its tables, its files, its exit codes."""

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from intraformer_fast.bench.facts import cases, rows
from intraformer_fast.bench.facts import ptx as emulator
from intraformer_fast.cli import main


@pytest.fixture
def toy_facts(toy_kernels, monkeypatch):
    """The facts "toy" and "wrong", forgotten after the test."""
    monkeypatch.setattr(cases, "FACTS", {})
    spec = importlib.util.spec_from_file_location("toy_facts", Path(__file__).with_name("toy_facts.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register(toy_kernels)


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["intraformer-fast", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code or 0, stdout=out, stderr=err)

    return run


def test_whole_path(toy_facts, command, tmp_path):
    done = command("toy", "--facts", "--seed", 3, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["toy: one tile", "toy: a loop"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "compiled.csv",
        "executed.csv",
        "facts.html",
        "facts.md",
    ]
    markdown = (tmp_path / "facts.md").read_text()
    assert done.stdout.strip() in markdown
    for label in ("never run on a GPU", "static bound", "Executed on the CPU", "Compiled, with a static bound"):
        assert label in markdown
        assert label in (tmp_path / "facts.html").read_text()
    compiled = list(csv.DictReader((tmp_path / "compiled.csv").open()))
    assert [(row["case"], row["capability"]) for row in compiled] == [
        (case, capability) for case in ("one tile", "a loop") for capability in ("80", "90", "100")
    ]
    assert {row["seed"] for row in compiled} == {"3"}
    tile = compiled[0]
    assert tile["gpu"] == "A100-SXM4-80GB"
    assert tile["tensor_core"] == "64 HMMA.16816.F32.BF16"
    assert tile["useful_flops"] == tile["issued_flops"] == str(10**6 * 4 * 64 * 64 * 64)
    assert float(tile["roofline"]) == pytest.approx(10**6 * 4 * 64 * 64 * 2 / 2.039e12)
    assert 0 < float(tile["of_roofline"]) <= 1
    loop = compiled[3]
    assert loop["useful_flops"] == loop["issued_flops"] == str(10**5 * 4 * 128 * 128 * 64)
    assert compiled[5]["issued_flops"] == compiled[5]["bound"] == ""
    executed = list(csv.DictReader((tmp_path / "executed.csv").open()))
    assert {row["parity"] for row in executed} == {"passed"}
    assert executed[0]["least_sectors"] == str(4 * 2 * 64 * 64 * 2 // 32)
    assert int(executed[0]["load_sectors"]) + int(executed[0]["store_sectors"]) == int(executed[0]["least_sectors"])
    assert executed[1]["issued_flops"] == executed[1]["useful_flops"] == str(2 * 4 * 128 * 128 * 64)


def test_a_wrong_kernel_ends_in_1(toy_facts, command):
    done = command("wrong", "--facts", "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)["executed"]
    assert row["parity"] == "FAILED"
    assert row["error_ratio"] > 2
    assert (
        "a larger scale: attention FAILED when it was executed (the error of o is" in command("wrong", "--facts").stdout
    )


def test_a_fault_ends_in_1(toy_facts, command, monkeypatch):
    def fault(launch):
        raise emulator.Fault("a race in shared memory")

    monkeypatch.setattr(rows, "execute", fault)
    done = command("toy", "--facts", "--quick")
    assert done.returncode == 1
    assert "one tile: attention FAILED when it was executed (a race in shared memory)" in done.stdout
    assert "a loop" not in done.stdout


def test_without_triton(toy_facts, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    done = command("toy", "--facts")
    assert done.returncode == 3
    assert "pip install 'intraformer-fast[triton]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("huge",), "no facts of 'huge': expected some of toy, wrong"),
        (("--rounds", 3), "`bench --facts` does not take"),
        (("--threads", 3), "`bench --facts` does not take"),
        (("--device", "cuda"), "`bench --facts` does not take"),
    ],
)
def test_bad_input(toy_facts, command, arguments, words):
    done = command("--facts", *arguments)
    assert done.returncode == 3
    assert words in done.stderr


def test_no_name_twice(toy_facts):
    with pytest.raises(ValueError, match="facts of 'toy' are there already"):
        cases.register_facts("toy")(lambda: [])
    cases.register_facts("none")(lambda: [])
    with pytest.raises(ValueError, match="at least one"):
        _ = cases.FACTS["none"].cases
