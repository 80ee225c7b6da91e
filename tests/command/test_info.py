"""What `intraformer-fast info` says of the native libraries."""

import json

import pytest

from intraformer_fast.cli import info, native_rows

BUILD = {
    "version": "0.1.0",
    "cxx_compiler": "GNU 12.2.0",
    "cpu_instruction_sets": "generic avx2 avx512",
    "cuda_compiler": "NVIDIA 13.0.88",
    "cuda_architectures": "80-real 90-real",
    "torch_headers": "2.13.0+cpu",
    "torch_minimum": "2.10",
    "build_type": "Release",
}
LOADED = {"cpu": "loaded", "cuda": "loaded", "cpu_instruction_set": "avx512", "build": BUILD}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            {
                "CPU library": "loaded, instruction set avx512",
                "CUDA library": "loaded",
                "built with": "GNU 12.2.0, nvcc 13.0.88, torch 2.13.0+cpu (serves 2.10 and later)",
                "built for": "CPU generic avx2 avx512; CUDA 80-real 90-real",
            },
        ),
        ({"cuda": "torch is a build without CUDA"}, {"CUDA library": "not loaded: torch is a build without CUDA"}),
        (
            {"build": {**BUILD, "cuda_compiler": "", "cuda_architectures": ""}},
            {
                "built with": "GNU 12.2.0, no nvcc, torch 2.13.0+cpu (serves 2.10 and later)",
                "built for": "CPU generic avx2 avx512; CUDA not built",
            },
        ),
    ],
)
def test_native_rows(changes, expected):
    rows = native_rows({**LOADED, **changes})
    assert {name: rows[name] for name in expected} == expected


def test_native_rows_of_pure_python():
    rows = native_rows({"cpu": "no library", "cuda": "no library", "cpu_instruction_set": None, "build": {}})
    assert rows == {"CPU library": "not loaded: no library", "CUDA library": "not loaded: no library"}


def test_one_line_a_fact(run, answer):
    lines = run("info", check=0).stdout.splitlines()
    assert all(line[15] == " " and line[16] != " " for line in lines)
    assert not any("{" in line for line in lines)
    assert set(answer("info")["native"]) == {"cpu", "cuda", "cpu_instruction_set", "build"}


def test_estimate_names_every_stage_on_every_device(capsys):
    info(estimate=True, samples=1000, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 1000
    assert [stage["op"] for stage in found["estimates"]] == 3 * ["knn_graph", "intraformer", "all"]
    assert {stage["device"] for stage in found["estimates"]} >= {"A100-SXM4-80GB", "H100-SXM5-80GB"}
    assert all(stage["seconds"] > 0 for stage in found["estimates"])
    info(estimate=True, samples=1000)
    assert "predicted" in capsys.readouterr().out
