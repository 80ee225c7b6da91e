"""What the emulator computes for each instruction Triton uses, against PyTorch; and what it refuses."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from intraformer_fast.bench.facts import ptx
from intraformer_fast.bench.facts.execute import execute
from intraformer_fast.bench.facts.ptx import arithmetic, values
from intraformer_fast.bench.facts.ptx.counts import Counts
from intraformer_fast.bench.facts.ptx.memory import count_banks
from intraformer_fast.kernels.common.launches import Launch

BLOCK = 256


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("triton", reason="Triton is not installed: there is no kernel to execute")
    spec = importlib.util.spec_from_file_location(
        "arithmetic_kernels", Path(__file__).with_name("arithmetic_kernels.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(kernel, arguments, constexprs, grid=(1,), num_warps=4):
    return execute(Launch(kernel, grid, arguments, constexprs, num_warps, 1))


def test_floats(kernels):
    x, y = 3 * torch.randn(2, BLOCK)
    out = torch.full((16, BLOCK), torch.nan)
    run(kernels.floats, {"p_x": x, "p_y": y, "p_out": out}, {"BLOCK": BLOCK})
    a, b = x.double(), y.double()
    exact = torch.stack([
        a + b, a * b - a, a / b, a.exp(), b.abs().log(), a.abs().sqrt(), b.abs().rsqrt(), torch.maximum(a, b),
        torch.minimum(a, b), torch.where(a < b, a, -b), a.floor(), b.ceil(), a.sigmoid(), a * b + a, torch.erf(a),
        a.exp2() + b.abs().log2(),
    ])  # fmt: skip
    assert ((out - exact).abs() <= 4e-6 * (1 + exact.abs())).all(1).tolist() == [True] * 16


def test_conversions_round_to_even(kernels):
    x = torch.cat([3 * torch.randn(BLOCK - 6), torch.tensor([0.0, -0.0, 1e-8, torch.inf, 1 + 2**-9, 1 + 3 * 2**-9])])
    half, brain, back = torch.empty(BLOCK).half(), torch.empty(BLOCK).bfloat16(), torch.empty(BLOCK)
    run(kernels.rounded, {"p_x": x, "p_half": half, "p_brain": brain, "p_back": back}, {"BLOCK": BLOCK})
    assert torch.equal(back, x.half().float() + x.bfloat16().float())
    for found, of in ((half, x.half()), (brain, x.bfloat16())):
        exact = of.double() * of.double() + of.double()
        eps = torch.finfo(of.dtype).eps
        finite = exact.isfinite()
        assert (
            (found.double() - exact)[finite].abs().le(eps * (1 + exact[finite].abs() + of[finite].double() ** 2)).all()
        )
        assert torch.equal(found.isinf(), exact.isinf())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers(kernels, dtype):
    x = torch.randint(-(2**30), 2**30, (BLOCK,), dtype=dtype)
    y = torch.where(torch.rand(BLOCK) < 0.5, -1, 1).to(dtype) * torch.randint(1, 2**15, (BLOCK,), dtype=dtype)
    out = torch.empty(15, BLOCK, dtype=dtype)
    run(kernels.integers, {"p_x": x, "p_y": y, "p_out": out}, {"BLOCK": BLOCK})
    quotient = torch.div(x, y, rounding_mode="trunc")
    exact = torch.stack([
        x + y, x * y, quotient, x - quotient * y, x & y, x | y, x ^ y, x << 3, x >> 2, torch.maximum(x, y),
        torch.where(x > y, x, y + 1), torch.div(x, 7, rounding_mode="trunc"), x.abs(), x.float().int().to(dtype),
        x.to(torch.int8).to(dtype),
    ])  # fmt: skip
    assert (out == exact).all(1).tolist() == [True] * 15


def test_gather_beyond_32_bits_of_bytes(kernels):
    table = torch.randn(50, 48).bfloat16()
    ids = torch.randperm(50)[:32]
    ids[::7] = -1
    out = torch.full((32, 48), torch.nan).bfloat16()
    arguments = {"p_table": table, "p_ids": ids, "p_out": out, "stride_n": 48, "width": 48}
    counts = run(kernels.gather, arguments, {"ROWS": 16, "WIDTH": 64}, grid=(2,))
    assert torch.equal(out, torch.where((ids >= 0)[:, None], table[ids], 0))
    assert counts.loads["p_table"].sectors == int((ids >= 0).sum()) * 3
    ids[5] = 50
    with pytest.raises(ptx.Fault, match="out of bounds"):
        run(kernels.gather, arguments, {"ROWS": 16, "WIDTH": 64}, grid=(2,))


@pytest.mark.parametrize("num_warps", [1, 4, 8])
def test_reductions(kernels, num_warps):
    x = torch.randn(32, 64)
    row_sums, column_max, where, total = (
        torch.empty(32),
        torch.empty(64),
        torch.empty(32, dtype=torch.int32),
        torch.empty(1),
    )
    arguments = {"p_x": x, "p_sum": row_sums, "p_max": column_max, "p_arg": where, "p_all": total}
    run(kernels.reduce, arguments, {"ROWS": 32, "WIDTH": 64}, num_warps=num_warps)
    torch.testing.assert_close(row_sums, x.sum(1))
    assert torch.equal(column_max, x.amax(0))
    assert torch.equal(where, x.argmax(1).int())
    torch.testing.assert_close(total, x.sum()[None])


@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance", "shape"),
    [
        (torch.float16, "ieee", 1e-5, (64, 32, 32)),
        (torch.bfloat16, "ieee", 1e-5, (16, 16, 16)),
        (torch.float32, "tf32", 2e-2, (32, 32, 32)),
        (torch.float32, "ieee", 1e-5, (32, 16, 16)),
        (torch.float32, "tf32x3", 1e-5, (32, 32, 32)),
    ],
)
def test_products(kernels, dtype, precision, tolerance, shape):
    m, n, k = shape
    a, b, c = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.full((m, n), torch.nan)
    constexprs = {"M": m, "N": n, "K": k, "PRECISION": precision}
    counts = run(kernels.product, {"p_a": a, "p_b": b, "p_c": c}, constexprs, num_warps=2)
    exact = a.double() @ b.double()
    assert (c - exact).abs().max() < tolerance
    useful = 2 * m * n * k
    assert (
        counts.mma_flops
        == {"ieee": useful if dtype != torch.float32 else 0, "tf32": useful, "tf32x3": 3 * useful}[precision]
    )


def test_a_loop_until_something_is_found(kernels):
    x, out = torch.arange(12.0), torch.empty(1)
    run(kernels.scan_while, {"p_x": x, "p_out": out, "limit": 8.5}, {"BLOCK": 1}, num_warps=1)
    assert out.item() == 10


def test_banks():
    """Lanes of one warp: neighbors, the same word, a stride of two words, of 32 words; 16 bytes each in four passes."""
    lanes = np.arange(32)
    cases = ((4, 4, 1, 0), (0, 4, 1, 0), (8, 4, 2, 1), (128, 4, 32, 31), (16, 16, 4, 0), (128, 16, 32, 28))
    for stride, size, wavefronts, conflicts in cases:
        counts = Counts()
        count_banks(counts, lanes * stride, size, lanes)
        assert (counts.wavefronts, counts.bank_conflicts) == (wavefronts, conflicts), (stride, size)


def test_single_instructions():
    """Those that the kernels above need not contain, by the definitions of the PTX ISA."""

    def compute(text, **registers):
        (instruction,) = ptx.parse(f".visible .entry k()\n{{\n{text}\n}}", "k").instructions

        def read(operand, kind):
            bits = (
                registers[operand.strip("%")] if operand.startswith("%") else int(operand, 0) % 2 ** values.BITS[kind]
            )
            return values.decode(np.array([bits], values.UNSIGNED[values.BITS[kind]]), kind)

        result, kind = arithmetic.compute(instruction.opcode, instruction.modifiers, instruction.operands[1:], read)
        return int(values.encode(result, kind)[0])

    assert compute("prmt.b32 %d, %a, %b, 0x7531;", a=0x33221100, b=0x77665544) == 0x77553311
    assert compute("prmt.b32 %d, %a, %b, 0x8888;", a=0x33221180, b=0) == 0xFFFFFFFF
    assert compute("lop3.b32 %d, %a, %b, %c, 0x6a;", a=0xF0, b=0xCC, c=0xAA) == (0xF0 & 0xCC) ^ 0xAA
    assert compute("bfe.s32 %d, %a, 4, 4;", a=0x80) == 0xFFFFFFF8
    assert compute("bfe.u32 %d, %a, 4, 4;", a=0x80) == 8
    assert compute("bfi.b32 %d, %a, %b, 8, 4;", a=0xF7, b=0xFFFF0000) == 0xFFFF0700
    assert compute("shf.l.wrap.b32 %d, %a, %b, 8;", a=0x11223344, b=0x55667788) == 0x66778811
    assert compute("shf.r.clamp.b32 %d, %a, %b, 8;", a=0x11223344, b=0x55667788) == 0x88112233
    assert compute("shr.s32 %d, %a, 40;", a=0x80000000) == 0xFFFFFFFF
    assert compute("shl.b32 %d, %a, 32;", a=1) == 0
    assert compute("mul.hi.u64 %d, %a, %b;", a=2**63 + 5, b=2**62 + 3) == (2**63 + 5) * (2**62 + 3) >> 64
    assert compute("mul.hi.s64 %d, %a, %b;", a=2**64 - 5, b=2**62 + 3) == (-5 * (2**62 + 3) >> 64) % 2**64
    assert compute("mul.hi.s32 %d, %a, %b;", a=2**32 - 5, b=2**30 + 3) == (-5 * (2**30 + 3) >> 32) % 2**32
    assert compute("mad.wide.u32 %d, %a, %b, %c;", a=2**32 - 1, b=2**32 - 1, c=7) == (2**32 - 1) ** 2 + 7
    assert compute("popc.b32 %d, %a;", a=0xF0F) == 8
    assert compute("clz.b32 %d, %a;", a=1) == 31
    assert compute("brev.b32 %d, %a;", a=1) == 0x80000000
    assert compute("cvt.rzi.s32.f32 %d, %a;", a=0x7FC00000) == 0
    assert compute("cvt.rzi.s32.f32 %d, %a;", a=0x7F000000) == 0x7FFFFFFF
    assert compute("cvt.rna.tf32.f32 %d, %a;", a=0x3F801000) == 0x3F802000
    assert compute("cvt.rn.bf16x2.f32 %d, %a, %b;", a=0x3F800000, b=0x40000000) == 0x3F804000
    assert compute("max.f32 %d, %a, %b;", a=0x7FC00000, b=0x3F800000) == 0x3F800000
    assert compute("max.NaN.f32 %d, %a, %b;", a=0x7FC00000, b=0x3F800000) & 0x7FC00000 == 0x7FC00000
    assert compute("setp.ltu.f32 %d, %a, %b;", a=0x7FC00000, b=0) == 1
    assert compute("setp.ne.f32 %d, %a, %b;", a=0x7FC00000, b=0) == 0
    assert compute("ex2.approx.ftz.f32 %d, %a;", a=0xC3080000) == 0  # 2^-136 is subnormal
    assert compute("fma.rn.bf16x2 %d, %a, %b, %c;", a=0x3F804000, b=0x40004000, c=0) == 0x40004080
    for text, words in (
        ("div.u32 %d, %a, 0;", "division by zero"),
        ("cvt.rz.bf16.f32 %d, %a;", "rz is not covered"),
        ("add.rz.f32 %d, %a, %a;", "rz is not covered"),
        ("dp4a.u32.u32 %d, %a, %a, %a;", "not covered"),
    ):
        with pytest.raises(ptx.Fault, match=words):
            compute(text, a=1)


def test_what_is_not_covered_is_named():
    def run(body, **options):
        kernel = ptx.parse(
            f".visible .entry k()\n{{\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n.reg .pred %p<9>;\n{body}\n}}", "k"
        )
        return ptx.launch(kernel, 1, (32,), [], ptx.Memory(), **options)

    for body, words in (
        ("atom.global.add.f32 %r1, [%rd1], %r2;", "not covered in: atom.global.add"),
        ("add.s32 %r1, %r2, 1;", "%r2 was never written"),
        ("mov.u32 %r1, %tid.x; ld.u32 %r2, [%rd1];", "generic or local memory is not covered"),
        ("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 5; @%p1 bar.sync 0;", "a barrier that some threads never reach"),
        ("mov.u32 %r1, %clock;", "%clock was never written"),
        ("add.s32 %q1, 1, 1;", "%q1 is not declared"),
        ("mov.u32 %r1, 1; mov.b64 %rd1, %r1;", "has not the 64 bits"),
        ("bar.sync 1, 64;", "some of the warps is not covered"),
    ):
        with pytest.raises(ptx.Fault, match=words):
            run(body)


def test_threads_that_part_meet_again():
    kernel = ptx.parse(
        """.visible .entry k(.param .u64 k_param_0)
{
  .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [k_param_0];
  mov.u32 %r1, %tid.x;
  mov.u32 %r2, 0;
$loop:
  { .reg .pred p; setp.ge.u32 p, %r2, %r1; @p bra $done; }
  add.u32 %r2, %r2, 1;
  bra $loop;
$done:
  bar.sync 0;
  mul.wide.u32 %rd2, %r1, 4;
  add.u64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r2;
  ret;
}""",
        "k",
    )
    out = np.zeros(64, np.uint32)
    memory = ptx.Memory()
    pointer = memory.add(out, name="out").to_bytes(8, "little")
    counts = ptx.launch(kernel, 1, (64,), [pointer], memory)
    assert out.tolist() == list(range(64))
    assert counts.barriers == 1
    assert counts.stores["out"].sectors == 64 * 4 // 32
