"""The static bound: rates, and kernels of a few instructions whose bound is known."""

import pytest

from intraformer_fast.bench.facts import sass
from intraformer_fast.bench.facts.bound import bound, cost, kernel_time, residency
from intraformer_fast.bench.facts.compiled import Compiled, compile_launch
from intraformer_fast.gpus import GPUS, gpu

A100, H100, B200 = GPUS


def compiled(*lines, capability=80, registers=64, shared=0, num_warps=4):
    listing = "".join(f"        /*{16 * i:04x}*/  {line} ;\n" for i, line in enumerate([*lines, "EXIT"]))
    kernel = Compiled("kernel", capability, num_warps, (), registers, 0, 0, shared, "", b"")
    kernel.__dict__["code"] = sass.parse(listing)  # in place of what would be disassembled
    return kernel


def test_rates_agree_with_the_peaks():
    """Tensor cores: 1024 and 2048 multiply-adds of bf16 a cycle and SM. Float: two operations a lane and cycle."""
    assert A100.matrix_flops("bf16") == pytest.approx(2 * 1024, rel=2e-3)
    assert H100.matrix_flops("bf16") == pytest.approx(2 * 2048, rel=2e-3)
    assert B200.matrix_flops("bf16") == pytest.approx(2 * 4096, rel=2e-3)
    for one in GPUS:
        assert one.peaks["tf32"] * 2 == one.peaks["bf16"]
    assert A100.float_lanes * 2 * A100.multiprocessors * A100.clock == pytest.approx(A100.peaks["fp32"], rel=2e-3)
    # Float32 of the later two is quoted for a higher clock (1,980 MHz) than their tensor cores.
    for one in (H100, B200):
        assert one.float_lanes * 2 * one.multiprocessors * 1.98e9 == pytest.approx(one.peaks["fp32"], rel=2e-3)


@pytest.mark.parametrize(
    ("line", "part", "cycles"),
    [
        ("HMMA.16816.F32.BF16 R4, R8, R12, R4", "tensor cores", 2.0),
        ("HMMA.1688.F32.TF32 R4, R8, R12, R4", "tensor cores", 2.0),
        ("FFMA R1, R2, R3, R4", "float", 0.5),
        ("MUFU.EX2 R1, R2", "special functions", 2.0),
        ("LOP3.LUT R1, R2, R3, R4, 0xc0, !PT", "integer", 0.5),
        ("LDS.128 R4, [R1]", "shared memory", 4.0),
        ("LDSM.16.M88.4 R4, [R1]", "shared memory", 4.0),
        ("LDSM.16.MT88.2 R4, [R1]", "shared memory", 2.0),
        ("LDGSTS.E.BYPASS.128 [R1], [R2.64]", "shared memory", 4.0),
        ("LDGSTS.E.BYPASS.128 [R1], [R2.64]", "first-level cache", 4.0),
        ("STG.E [R2.64], R1", "first-level cache", 1.0),
        ("SHFL.BFLY PT, R1, R2, 0x1, 0x1f", "shuffles", 1.0),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "issue", 0.25),
    ],
)
def test_cycles_of_an_sm(line, part, cycles):
    found = cost(compiled(line).code.instructions[0], A100)
    assert found[part] == pytest.approx(cycles, rel=2e-3)
    assert found["issue"] == 0.25


def test_a_quarter_of_wgmma_is_a_warps():
    (instruction, _) = compiled("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24", capability=90).code.instructions
    assert 4 * cost(instruction, H100)["tensor cores"] == pytest.approx(64 * 128 * 16 / 2048, rel=2e-3)


def test_bound_by_exponentials():
    """1,000 a warp: 2,000 cycles of each program's four warps on the SM with the most programs."""
    kernel = compiled(*["MUFU.EX2 R1, R2"] * 1000)
    time = kernel_time(kernel, A100, 109)
    found = bound([time], A100, least_bytes=1, useful_flops=1, precision="bf16")
    assert found.binding == time.part == "special functions"
    assert found.seconds == pytest.approx(2 * 4 * 2000 / 1.41e9)
    assert found.on_chip_share == 1
    assert found.of_roofline < 1e-4


def test_bound_by_memory():
    time = kernel_time(compiled("MUFU.EX2 R1, R2"), A100, 1)
    found = bound([time], A100, least_bytes=2039 * 10**6, useful_flops=0, precision="bf16")
    assert found.seconds == found.roofline == pytest.approx(1e-3)
    assert (found.binding, found.of_roofline) == ("memory", 1)
    assert found.on_chip_share < 1e-5


def test_launches_follow_one_another():
    slow, fast = (kernel_time(compiled(*["MUFU.EX2 R1, R2"] * count), A100, 108) for count in (2000, 1000))
    found = bound([slow, fast], A100, 1, 1, "bf16")
    assert found.seconds == slow.seconds + fast.seconds


def test_multiplying_more_than_is_useful_lowers_the_bound():
    flops = 108 * 4 * 1000 * 4096
    kernel = compiled(*["HMMA.16816.F32.BF16 R4, R8, R12, R4"] * 1000)
    time = kernel_time(kernel, A100, 108)
    assert bound([time], A100, 1, flops, "bf16").of_roofline == pytest.approx(1, rel=2e-3)
    assert bound([time], A100, 1, flops // 2, "bf16").of_roofline == pytest.approx(0.5, rel=2e-3)


def test_what_a_program_multiplies_as_one_is_counted(attention, meta):
    found = compile_launch(attention(*meta(4, (4, 64, 128))), 100)
    cycles = kernel_time(found, B200, 148).cycles["tensor cores"]
    assert cycles == pytest.approx(2 * 2 * 64 * 64 * 128 / 8192, rel=2e-3)


def test_residency():
    assert residency(compiled("NOP", registers=255), A100) == (2, "registers")
    assert residency(compiled("NOP", registers=32, shared=80 * 1024), A100) == (2, "shared memory")
    assert residency(compiled("NOP", registers=32), A100) == (16, "registers")
    assert residency(compiled("NOP", registers=16, num_warps=8), A100) == (8, "warps")
    assert residency(compiled("NOP", registers=16, num_warps=1), A100) == (32, "programs")
    with pytest.raises(ValueError, match="too much of shared memory"):
        residency(compiled("NOP", shared=200 * 1024), A100)


def test_a_loop_counts_its_trips(attention_loop, meta):
    kernel = compile_launch(attention_loop(*meta(4, (4, 256, 128))), 80)
    once, twice = (kernel_time(kernel, A100, 16, [trips]).cycles["tensor cores"] for trips in (1, 2))
    assert twice == 2 * once == pytest.approx(2 * 4 * 64 * 64 * 128 / A100.matrix_flops("bf16"))


def test_another_gpu():
    with pytest.raises(ValueError, match="compiled for 80: H100-SXM5-80GB needs 90"):
        kernel_time(compiled("NOP"), H100, 1)
    with pytest.raises(ValueError, match="no GPU of capability 75"):
        gpu(75)
