"""A second opinion on the kernels: Triton's own interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import torch


def test_block_attention():
    seed = torch.seed() % 2**32
    script = Path(__file__).with_name("triton_interpreter.py")
    command = [sys.executable, str(script), str(seed)]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    assert done.stdout.endswith("agreed\n")
