"""Run by test_triton_interpreter.py with TRITON_INTERPRET=1, in a process of its own: what is imported then is never compiled."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from cases.block_attention import Case, GatherCase, assert_parity

from intraformer_fast.kernels.block_attention import launch

torch.manual_seed(int(sys.argv[1]))
cpu = torch.device("cpu")
# Its bfloat16 is wrong and its TF32 is float32, so neither is asked for.
for dtype in (torch.float32, torch.float16):
    for shape, blocks in (((2, 2, 37, 16), 4), ((2, 2, 24, 16), 8), ((2, 1, 70, 16), 1)):
        case = Case.draw(shape, blocks, dtype, masked=True)
        assert_parity(case, case.run(launch, cpu))
case = GatherCase.draw(30, 2, 16, (5, 23), 2, torch.float32)
assert_parity(case, case.run(launch, cpu))
print("agreed")
