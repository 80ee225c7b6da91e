"""What torch asks of the fused block's operators: schema, fake tensors, refusals; and how the module behaves when compiled."""

import pytest
import torch

from intraformer_fast import native, nn
from intraformer_fast.nn.intraformer import _stream_parameters
from intraformer_fast.ops import encoder_block

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

OPS = torch.ops.intraformer_fast
LAYOUTS = {
    "contiguous": lambda: torch.randn(3, 9, 32),
    "permuted": lambda: torch.randn(9, 3, 32).transpose(0, 1),
    "broadcast": lambda: torch.randn(1, 9, 32).expand(3, 9, 32),
    "no clusters": lambda: torch.randn(0, 9, 32),
    "no tokens": lambda: torch.randn(3, 0, 32),
}


def streams(compute):
    torch.manual_seed(0)
    block = nn.Intraformer(32, 9, 2, 1, 2).blocks[0]
    sizes = encoder_block.Sizes(2, 128, compute)
    return [encoder_block.pack(_stream_parameters(block, m), sizes) for m in range(2)], sizes


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, masked, compute):
    tokens = LAYOUTS[layout]()
    valid = torch.rand(tokens.shape[:2]) < 0.7 if masked else None
    packed, sizes = streams(compute)
    torch.library.opcheck(
        OPS.encoder_block, (tokens, valid, packed, *sizes, False, 1e-5), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: [a[0].double(), *a[1:]], "tokens is not float32"),
        (lambda a: [a[0].transpose(1, 2), *a[1:]], "channels of a token are not contiguous"),
        (lambda a: [a[0], torch.ones(3, 8, dtype=torch.bool), *a[2:]], "valid is not bool"),
        (lambda a: [*a[:2], a[2][:1] * 2, *a[3:]], "packed weights 1 were not packed for a stream of these sizes"),
        (lambda a: [*a[:2], [], *a[3:]], "no packed weights"),
        (lambda a: [*a[:3], 4, *a[4:]], "a head is not a multiple of 16"),
        (lambda a: [*a[:4], 64, *a[5:]], "packed weights 0 were not packed"),
        (lambda a: [*a[:5], "int8", *a[6:]], "packed weights 0 were not packed"),
        (lambda a: [*a[:5], "int4", *a[6:]], "compute is not float32, bfloat16 or int8"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    packed, sizes = streams("float32")
    arguments = [torch.randn(3, 9, 32), None, packed, *sizes, False, 1e-5]
    OPS.encoder_block(*arguments)
    with pytest.raises(ValueError, match=message):
        OPS.encoder_block(*change(arguments))


def test_bad_parameters_are_refused():
    parameters = [p.detach() for p in _stream_parameters(nn.Intraformer(32, 9, 2, 1, 2).blocks[0], 1)]
    with pytest.raises(ValueError, match="the 17 of a Cross-transformer"):
        OPS.encoder_block_pack(parameters[:16], 2, "float32")
    for wrong in (parameters[4].t(), parameters[4].double(), parameters[4][:16]):
        with pytest.raises(ValueError, match="parameter 4 is not a contiguous float32 tensor"):
            OPS.encoder_block_pack([*parameters[:4], wrong, *parameters[5:]], 2, "float32")


def test_compiled_and_transformed_models_go_the_unfused_way():
    model = nn.Intraformer(32, 9, 2, 1, 2).eval()
    x = torch.randn(3, 9, 32)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
        torch.testing.assert_close(torch.func.vmap(lambda t: model(t[None])[0])(x), expected)
