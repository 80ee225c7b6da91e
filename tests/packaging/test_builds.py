"""The legs of check_builds.sh that need no download, and what a build asks pip to bring."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import setuptools

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


def test_a_build_in_isolation_takes_the_torch_that_is_installed(monkeypatch, tmp_path):
    """It fetched another, of several gigabytes, beside a small one that was there."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    spec = importlib.util.spec_from_file_location("setup_script", SCRIPT.parents[2] / "setup.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "find_spec", lambda _: None)  # hidden by the isolation
    monkeypatch.setattr(script, "compiler_found", lambda: True)
    monkeypatch.delenv("INTRAFORMER_NATIVE", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert script.torch_folder() is None
    assert "torch>=2.10" in script.missing_packages()
    header = tmp_path / "torch/include/torch/csrc/stable/ops.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert script.torch_folder() == tmp_path / "torch"
    assert "torch>=2.10" not in script.missing_packages()
