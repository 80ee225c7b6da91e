"""What goes with a wheel: the list of its parts and licenses."""

import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASE = runpy.run_path(str(ROOT / "release" / "sbom.py"))

METADATA = """\
Metadata-Version: 2.4
Name: intraformer-fast
Version: 9.8.7
License-Expression: MIT
Requires-Dist: torch>=2.10
Requires-Dist: numpy>=1.26
Requires-Dist: faiss-cpu>=1.8; extra == "faiss-cpu"
"""


@pytest.fixture
def wheel(tmp_path):
    def make(*names, metadata=METADATA):
        path = tmp_path / "a.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "")
            if metadata:
                archive.writestr("intraformer_fast-9.8.7.dist-info/METADATA", metadata)
        return path

    return make


def test_parts_are_what_is_inside_and_what_is_asked_for(wheel):
    found = RELEASE["sbom"](wheel("intraformer_fast/_C_cuda.so"))
    names = [part["name"] for part in found["components"]]
    assert names == ["glyphs.npz", "emoji.npz", "CUDA Runtime, statically linked into _C_cuda.so", "torch", "numpy"]
    assert all(part["licenses"] for part in found["components"])
    own = found["metadata"]["component"]
    assert (own["purl"], own["licenses"]) == ("pkg:pypi/intraformer-fast@9.8.7", [{"expression": "MIT"}])
    numpy = f"pkg:pypi/numpy@{importlib.metadata.version('numpy')}"
    assert numpy in found["dependencies"][0]["dependsOn"]


def test_the_program_writes_the_file_and_names_each_part_with_its_license(wheel, tmp_path):
    """It stopped at a license that is SPDX's identifier: the emoji's."""
    output = tmp_path / "sbom.json"
    command = [sys.executable, ROOT / "release" / "sbom.py", wheel("intraformer_fast/_C_cuda.so"), output]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = json.loads(output.read_text(encoding="utf-8"))["components"]
    assert all(part["name"] in out for part in parts)
    assert "emoji.npz: CC-BY-SA-4.0\n" in out


def test_a_wheel_without_the_cuda_library_names_no_part_of_cuda(wheel):
    names = [part["name"] for part in RELEASE["sbom"](wheel("intraformer_fast/_C_cpu.so"))["components"]]
    assert not any("CUDA" in name for name in names)


def test_no_wheel_is_refused(wheel):
    with pytest.raises(ValueError, match="holds 0 files METADATA"):
        RELEASE["sbom"](wheel("a.txt", metadata=None))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("License-Expression: MIT\nLicense: x", [{"expression": "MIT"}]),
        ("Classifier: License :: OSI Approved :: BSD License\nLicense: x", [{"license": {"name": "BSD License"}}]),
        ("License: Apache 2.0", [{"license": {"name": "Apache 2.0"}}]),
        ("Name: nothing", []),
    ],
)
def test_a_license_is_what_a_package_declares(header, expected):
    assert RELEASE["licenses"](HeaderParser().parsestr(header)) == expected


def test_the_newest_version_of_the_changelog_is_that_of_the_package():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, newest = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$", changelog, re.MULTILINE)[:2]
    assert unreleased == "Unreleased"
    assert f'\nversion = "{newest}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
