"""The legs of check_builds.sh that need no download."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("check_builds.sh")


def check_builds(*legs):
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *legs], env=environment, capture_output=True, text=True)


@pytest.mark.timeout(1200)  # compiles all of the native code
@pytest.mark.parametrize("leg", ["no-nvcc", "no-compiler"])
def test_build_where_a_tool_is_missing(leg):
    done = check_builds(leg)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"== {leg}: passed" in done.stdout


def test_an_unknown_leg_is_refused():
    done = check_builds("torch-1.0")
    assert done.returncode == 1
    assert "unknown leg 'torch-1.0': there are wheel" in done.stderr
