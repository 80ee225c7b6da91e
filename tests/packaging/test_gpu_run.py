"""bench/gpu_run.sh, as far as a CPU carries it."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu_run.sh"
STEPS = ["versions", "requirements", "build", "info", "tests", "bench"]
SANITIZERS = ["sanitizer-memcheck", "sanitizer-racecheck", "sanitizer-initcheck"]


def start(output, *options, python=sys.executable):
    environment = {**os.environ, "PYTHON": str(python), "INTRAFORMER_CUDA": "OFF"}
    command = [SCRIPT, "--dry-run", "--output", output, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(output):
    """The files of the one archive by name, and the words of each step."""
    (archive,) = output.iterdir()
    assert re.fullmatch(r"intraformer-fast-gpu-results-\d{8}T\d{6}Z\.tar\.gz", archive.name)
    folder = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as tar:
        files = {m.name.removeprefix(folder + "/"): tar.extractfile(m).read().decode() for m in tar if m.isfile()}
    lines = files["summary.txt"].splitlines()
    return files, {line.split()[0]: line.split(" s  ")[1] for line in lines}


def python_that(folder, *cases):
    """A python that does something else where its arguments fit a shell pattern."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\ncase "$*" in\n{"".join(cases)}esac\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.timeout(900)  # compiles the native code
def test_dry_run(tmp_path):
    output = tmp_path / "results"
    run = start(output)
    words = run.communicate()[0]
    assert run.returncode == 0, words
    files, steps = results(output)
    assert list(steps) == STEPS + SANITIZERS
    assert {steps[name] for name in STEPS} == {"passed"}
    assert {steps[name] for name in SANITIZERS} == {"skipped: a dry run is on the CPU"}
    assert re.search(r"^torch +\d", files["versions.log"], re.MULTILINE)
    assert '"cpu": "loaded"' in files["info.log"]
    suite = ElementTree.fromstring(files["tests.xml"]).find("testsuite").attrib
    assert int(suite["tests"]) > 5
    assert suite["failures"] == suite["errors"] == suite["skipped"] == "0"
    assert any(name.startswith("bench/") and name.endswith(".csv") for name in files)
    assert sum(map(len, files.values())) < 2**20


def test_a_failed_step_is_recorded_and_the_others_run(tmp_path):
    output = tmp_path / "results"
    broken = python_that(
        tmp_path, '*"pip install"*) echo planted; exit 7;;\n', "*pip* | *bench*) exit 0;;\n"
    )  # fmt: skip
    run = start(output, python=broken)
    words = run.communicate()[0]
    assert run.returncode == 1
    files, steps = results(output)
    assert steps["build"] == "FAILED: exit code 7"
    assert files["build.log"] == "planted\n"
    assert "    planted\n" in words
    # What is installed otherwise must not pass for what was to be built; it is tested all the same.
    assert steps["info"] == "FAILED: exit code 1"
    assert "it is not what this run built" in files["info.log"]
    assert steps["tests"] == steps["bench"] == "passed"
    assert "2 failed; results: " in words


def test_nothing_runs_after_the_last_minute(tmp_path):
    run = start(tmp_path, "--minutes", "0")
    run.wait()
    assert run.returncode == 1
    steps = results(tmp_path)[1]
    assert {steps[name] for name in STEPS} == {"FAILED: not run, the 0 minutes were over"}


def test_an_interrupted_run_leaves_what_it_has(tmp_path):
    output = tmp_path / "results"
    marker = tmp_path / "running"
    run = start(output, python=python_that(tmp_path, f'*pytest*) touch "{marker}"; sleep 60;;\n', "*pip*) exit 0;;\n"))
    while not marker.exists():
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    run.wait(timeout=20)
    assert run.returncode == 1
    steps = results(output)[1]
    assert steps["requirements"] == "passed"
    assert steps["interrupted"].startswith("FAILED")
    assert "tests" not in steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu"], "unknown option '--gpu'"),
        (["--minutes", "ten"], "--minutes 'ten': expected a whole number"),
        (["--minutes"], "--minutes '': expected a whole number"),
    ],
)
def test_wrong_usage(tmp_path, options, message):
    run = start(tmp_path, *options)
    assert message in run.communicate()[0]
    assert run.returncode == 2
    assert not list(tmp_path.iterdir())
