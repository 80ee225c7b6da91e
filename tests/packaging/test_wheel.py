"""A wheel built from the tree holds the whole package and works where only it is on the path."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the sdist, and checked, by the script."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [ROOT / "tests/packaging/check_builds.sh", "--keep", folder, "wheel"]
    subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_holds_every_module_and_data_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {
        "intraformer_fast": "intraformer_fast",
        "kernels": "intraformer_fast/kernels",
        "bench": "intraformer_fast/bench",
    }
    for folder, installed in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{installed}/{path.relative_to(ROOT / folder)}" in names
    for example in ("glyphs", "emoji"):
        recipe = (
            f"bench/data/{example}/{name}" for name in ("README.md", "packages.txt", "packages.sha256", "licenses.txt")
        )
        for name in ("py.typed", f"data/{example}.npz", f"data/{example}.md", *recipe):
            assert f"intraformer_fast/{name}" in names
    assert not any(name.startswith(("tests/", "kernels/", "bench/")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_holds_no_path_of_the_machine_that_built_it(wheel):
    """The headers of torch put theirs into every library that has its checks."""
    paths = [os.fsencode(path) for path in (torch.__path__[0], tempfile.gettempdir() + "/")]
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        found = [name for name in libraries if any(path in archive.read(name) for path in paths)]
    assert len(libraries) >= 2
    assert found == []


def test_installed_wheel_runs_outside_the_tree(wheel, tmp_path):
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], check=True
    )
    code = (
        "import intraformer_fast as ifast, intraformer_fast.kernels, intraformer_fast.bench.baselines;"
        "print(ifast.__file__, len(ifast.data.load_example('glyphs', 'test')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [str(target / "intraformer_fast" / "__init__.py"), "21792"]
