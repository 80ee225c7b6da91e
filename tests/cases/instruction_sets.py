"""A check under each instruction set of the CPU library: a process chooses its set once, so each check gets one of its own."""

import os
import subprocess
import sys
from pathlib import Path

INSTRUCTION_SETS = ("generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16")

CODE = """
import sys, torch
sys.path[:0] = [{folder!r}, {cases!r}]
import intraformer_fast.native
try:
    assert torch.ops.intraformer_fast.cpu_instruction_set() == {instruction_set!r}
except ValueError as error:
    print("not here:", error)
    sys.exit()
from {module} import {check}
{check}()
print("same")
"""


def run_check(instruction_set: str, file: str, check: str) -> None:
    """Call the function `check` of a test file, which takes nothing, under a set; passes where the processor does not have it."""
    path = Path(file)
    code = CODE.format(
        folder=str(path.parent),
        cases=str(Path(__file__).parent.parent),
        instruction_set=instruction_set,
        module=path.stem,
        check=check,
    )
    environment = {**os.environ, "INTRAFORMER_CPU_ISA": instruction_set, "INTRAFORMER_AUTOTUNE": "0"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith("same") or ("not here:" in found.stdout and instruction_set != "generic")
