"""Every example runs, at a small size, and tells of its parity and speed."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.usefixtures("one_thread")  # so little work is done sooner by one


@pytest.mark.filterwarnings("ignore::UserWarning")  # an epoch of so little teaches nothing, and training says so
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_example(path, capsys):
    if path.stem == "ray_cluster":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'intraformer-fast[ray]'")
    runpy.run_path(str(path))["main"](["--small"])
    printed = capsys.readouterr().out
    assert "parity: " in printed
    assert "speed: " in printed
