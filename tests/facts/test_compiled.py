"""What is read from compiled Triton kernels, against what is known of them."""

import re

import pytest
import torch

from intraformer_fast.bench.facts.compiled import compile_launch, program_flops, warp_flops
from intraformer_fast.kernels.common.launches import Launch

USEFUL = 2 * 2 * 64 * 64 * 128  # two products of 64 x 64 x 128


@pytest.mark.parametrize(("capability", "instruction"), [(80, "HMMA"), (90, "HGMMA"), (100, "UTCHMMA")])
def test_attention_on_every_architecture(attention, meta, capability, instruction):
    found = compile_launch(attention(*meta(4, (4, 64, 128))), capability)
    assert found.name == "attention"
    assert {opcode.partition(".")[0] for opcode in found.tensor_core} == {instruction}
    assert found.mma_flops() == USEFUL
    assert not found.code.working_loops
    assert 64 < found.registers <= 255
    assert found.stack_bytes == found.spill_store_bytes == found.spill_load_bytes == 0
    assert found.static_shared_bytes == 0
    assert 3 * 64 * 128 * 2 <= found.dynamic_shared_bytes + (16384 if capability == 80 else 0) <= 65536


def test_small_tiles_for_100_multiply_in_warps(attention, meta):
    """Too few rows for tcgen05: HMMA, which a whole run of the facts once took for it."""
    found = compile_launch(attention(*meta(4, (4, 16, 128)), tile=16), 100)
    assert {opcode.partition(".")[0] for opcode in found.tensor_core} == {"HMMA"}
    assert found.mma_flops() >= 2 * 2 * 16 * 16 * 128
    assert found.tcgen05_flops() == 0


def test_registers_are_those_of_ptxas(attention, meta, tmp_path):
    """Read from the cubin; ptxas says it itself when asked to assemble the same PTX."""
    from triton import knobs

    found = compile_launch(attention(*meta(4, (4, 64, 128), torch.float32)), 90)
    words = assemble(knobs.nvidia.ptxas.path, found, tmp_path)
    assert f"Used {found.registers} registers" in words
    assert f"{found.stack_bytes} bytes stack frame" in words


def test_spills_are_those_of_ptxas(attention_loop, meta, tmp_path):
    from triton import knobs

    found = compile_launch(attention_loop(*meta(4, (4, 256, 128), torch.float32)), 90)
    stack, stores, loads = map(
        int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
                       assemble(knobs.nvidia.ptxas.path, found, tmp_path)).groups(),
    )  # fmt: skip
    assert stores > 0, "nothing is spilled any more: choose a larger tile for this test"
    assert (found.stack_bytes, found.spill_store_bytes, found.spill_load_bytes) == (stack, stores, loads)


def assemble(ptxas, compiled, folder):
    import subprocess

    file = folder / "kernel.ptx"
    file.write_text(compiled.ptx)
    command = [ptxas, "-v", "-lineinfo", "--regAllocOptLevel=2", "--gpu-name=sm_90a", file, "-o", folder / "cubin"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_loops_need_their_trips(attention_loop, meta):
    for capability in (80, 90):
        found = compile_launch(attention_loop(*meta(4, (4, 256, 128))), capability)
        assert len(found.code.working_loops) == 1
        with pytest.raises(
            ValueError, match=r"expected one for each of 1 loops \(\d+ instructions from \d+, \d+ of them"
        ):
            found.mma_flops()
        assert found.mma_flops([4]) == 4 * USEFUL


def test_specialization_is_that_of_a_launch(toy_kernels, meta):
    def widths(offset, n):
        x, y, z = (torch.empty(1024 + offset, dtype=torch.float32)[offset:] for _ in range(3))
        launch = Launch(toy_kernels.add, (1,), {"p_x": x, "p_y": y, "p_z": z, "n": n}, {"BLOCK": 1024}, 4, 1)
        return sorted({op for op in compile_launch(launch, 80).instructions if op.startswith("LDG")})

    assert widths(0, 1024) == ["LDG.E.128"]
    assert widths(1, 1024) == ["LDG.E"], "the pointer is no multiple of 16 bytes"
    assert widths(0, 1023) == ["LDG.E"], "the mask may end within a vector"


def test_strides_of_one_are_constants(attention, meta):
    q, k, v, o = meta(4, (4, 64, 128))
    assert "stride_d" not in compile_launch(attention(q, k, v, o), 80).parameters
    transposed = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v, o)]
    found = compile_launch(attention(*transposed), 80)
    assert "stride_s" not in found.parameters
    assert "stride_d" in found.parameters


def test_shapes_of_instructions():
    assert warp_flops("HMMA.16816.F32.BF16") == 4096
    assert warp_flops("HMMA.1688.F32.TF32") == 2048
    assert warp_flops("HGMMA.64x128x16.F32.BF16") == 2 * 64 * 128 * 16 // 4
    with pytest.raises(ValueError, match="QGMMA"):
        warp_flops("QGMMA.64x128x32.F32.E4M3.E4M3")
    assert program_flops("mov.b32 \t%r1, 69272720;", "f16", "%r1") == 2 * 64 * 128 * 16
    with pytest.raises(ValueError, match="not one constant"):
        program_flops("mov.b32 \t%r1, %r2;", "f16", "%r1")


def test_interpreted_kernels_are_refused(toy_kernels, meta):
    (x,) = meta(1, (64,))
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        compile_launch(Launch(lambda: None, (1,), {"x": x}, {}, 4, 1), 80)
