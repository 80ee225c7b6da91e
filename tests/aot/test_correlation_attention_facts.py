"""What Triton compiles the C-ATT kernels to on every architecture: registers, spills, shared memory, instructions of the tensor cores,
and how near to the roofline they could come at the paper's size.

Compiled, never run on a GPU: these are facts about the code, not speeds.
"""

import itertools
import re

import pytest
import torch

from intraformer_fast import gpus
from intraformer_fast.bench.facts.bound import bound, kernel_time
from intraformer_fast.bench.facts.compiled import compile_launch
from intraformer_fast.kernels.correlation_attention import configs, launch, products

# Bytes of shared memory that a program can have; a KiB of them is the driver's.
MOST_SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
SUMS = "sums of places"
# [width, longest context]: every row of the tables, and tiles wider than the tokens. The paper's size first.
HALF_SIZES = [(512, 64), (512, 128), (512, 256), (256, 64), (128, 128), (80, 64), (320, 256), (1024, 64)]
HALF_SIZES += [(64, 64), (64, 256), (32, 128)]
SINGLE_SIZES = [(512, 64), (512, 128), (512, 256), (80, 64), (64, 128), (32, 64), (32, 256)]
# The same kernels, of tables: every row again.
TABLE_SIZES = [(torch.float32, mode, (512, context)) for mode in ("ieee", "tf32") for context in (64, 128, 256)]
TABLE_SIZES += [(torch.bfloat16, "ieee", size) for size in [*HALF_SIZES[:3], (1024, 64)]]


@pytest.fixture
def fp32_precision(request):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = request.param
    yield request.param
    torch.backends.cuda.matmul.fp32_precision = before


def check(compiled, capability, matrix):
    assert compiled.stack_bytes == 0
    assert compiled.shared_bytes + 1024 <= MOST_SHARED[capability]
    # In PTX, which is read faster than machine code.
    assert any(name in compiled.ptx for name in ("mma.sync", "wgmma.mma_async", "tcgen05.mma")) == matrix
    assert re.search(r"(ld\.global\S*\.v4\.b32|cp\.async\.cg\.shared\.global)", compiled.ptx), "no load of 16 bytes"


@pytest.mark.parametrize("capability", MOST_SHARED)
@pytest.mark.parametrize("size", HALF_SIZES, ids=str)
def test_half_precision(size, capability):
    width, context = size
    for dtype in (torch.bfloat16, torch.float16) if size == HALF_SIZES[0] else (torch.bfloat16,):
        for masked in (True, False) if size == HALF_SIZES[0] else (True,):
            for made in launch.possible_launches(dtype, width, context, capability, masked=masked).values():
                check(compile_launch(made, capability), capability, matrix=True)


@pytest.mark.parametrize("capability", MOST_SHARED)
@pytest.mark.parametrize("size", SINGLE_SIZES, ids=str)
@pytest.mark.parametrize("fp32_precision", ["ieee", "tf32"], indirect=True)
def test_float32(size, capability, fp32_precision):
    for made in launch.possible_launches(torch.float32, *size, capability, masked=True).values():
        check(compile_launch(made, capability), capability, matrix=fp32_precision == "tf32")


@pytest.mark.parametrize("capability", MOST_SHARED)
@pytest.mark.parametrize(("dtype", "fp32_precision", "size"), TABLE_SIZES, ids=str, indirect=["fp32_precision"])
def test_tables(size, capability, dtype, fp32_precision):
    for name, made in launch.possible_launches(dtype, *size, capability, gathered=True).items():
        matrix = name != SUMS and (dtype == torch.bfloat16 or fp32_precision == "tf32")
        check(compile_launch(made, capability), capability, matrix)


def test_hopper_multiplies_by_warp_groups():
    """The instructions that alone reach the peak of the chip; those of a warp reach three fifths."""
    for made in launch.possible_launches(torch.bfloat16, 512, 64, 90).values():
        found = compile_launch(made, 90).tensor_core
        assert {opcode.partition(".")[0] for opcode in found} == {"HGMMA"}


def test_static_bound_at_the_papers_size():
    """Eight clusters for each multiprocessor of an H100. The least bytes are those of tensors read and written once."""
    gpu = next(gpu for gpu in gpus.GPUS if gpu.capability == 90)
    batch, members, anchors, width = 8 * gpu.multiprocessors, 192, 64, 512
    member, anchor = (torch.empty(batch, n, width, dtype=torch.bfloat16, device="meta") for n in (members, anchors))
    z = member[:, None]
    product, tokens = 2 * batch * members * anchors * width, 2 * batch * width
    forward = launch.forward_launch(member, z, anchor, None, 90)
    backward = launch.backward_launch(anchor, z, member, z, anchor, None, 90)
    for made, products_of, rows in ((forward, 2, 2 * members + anchors), (backward, 5, 3 * members + 2 * anchors)):
        trips = [members // made.constexprs["BM"]] if products_of == 5 else [width // made.constexprs["BK"]]
        time = kernel_time(compile_launch(made, 90), gpu, made.grid[0], trips)
        found = bound([time], gpu, rows * tokens, products_of * product, "bf16")
        assert found.of_roofline >= 0.65, found


def test_context_is_loaded_once():
    """All of a `whole` program's loads of 16 bytes outside its loop are the context, and each element is in one of them."""
    made = launch.possible_launches(torch.bfloat16, 512, 64, 90)["backward"]
    loads = [i for i in compile_launch(made, 90).code.instructions if i.name == "LDG" and i.width == 16]
    assert len(loads) * 16 * 32 * made.num_warps == 64 * 512 * 2


# The tables themselves.


def test_tiles():
    assert configs.context_block(1) == configs.context_block(64) == 64
    assert configs.context_block(65) == 128
    assert configs.width_block(80) == 128
    assert configs.width_block(1) == 16
    assert configs.missing_columns(80) == configs.missing_columns(512) == 0
    assert configs.missing_columns(77) == 3
    assert configs.missing_columns(1) == 31


def test_which_kernel_serves():
    assert configs.is_whole(configs.HALF, 512, 64, 90)
    assert configs.is_whole(configs.HALF, 256, 128, 100)
    assert not configs.is_whole(configs.HALF, 1025, 64, 90)
    assert not configs.is_whole(configs.HALF, 512, 129, 90)
    assert not configs.is_whole(configs.TF32, 16, 1, 90)
    assert not configs.is_whole(configs.HALF, 16, 1, 80)


def test_every_size_has_tiles():
    for mode, capability in itertools.product(configs.MODES, (80, 86, 90, 100, 120)):
        for context in (1, 64, 65, 128, 129, configs.MOST_CONTEXT):
            for width in (32, 80, 512, configs.MOST_WIDTH):
                forward = configs.forward_tiles(mode, context, width, capability, gathered=False)
                assert forward.step <= configs.width_block(width) // 2
                assert forward.columns <= configs.width_block(width)
                backward = configs.backward_sliced(mode, context, width, capability, gathered=True)
                assert backward.columns <= backward.slice <= configs.width_block(width)


def test_parts_of_a_weight_gradient():
    narrow, wide = configs.weight_gradient_tiles(80), configs.weight_gradient_tiles(90)
    assert configs.weight_gradient_parts(64 * 1024, 512, 3, narrow) == 6
    assert configs.weight_gradient_parts(64 * 1024, 512, 3, wide) == 11
    assert configs.weight_gradient_parts(100, 512, 3, wide) == 1


def test_kernels_take_what_the_op_says():
    from intraformer_fast.ops import correlation_attention as op

    assert (op.MOST_WIDTH, op.MOST_CONTEXT) == (configs.MOST_WIDTH, configs.MOST_CONTEXT)


def test_runs_are_those_of_the_reference():
    from intraformer_fast import reference

    for n, num_runs in ((37, 3), (3, 5), (48, 4)):
        assert products.runs(n, num_runs) == reference.subcluster_bounds(n, num_runs)
