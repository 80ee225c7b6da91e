"""explain(): which kernel serves each op, on the CPU here and on a GPU that is not."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import intraformer_fast as ifast
from intraformer_fast import native

needs_native = pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="only the reference is installed")
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed, which the reasons are of"
)


@pytest.fixture
def model():
    return ifast.nn.Intraformer(64, 16, 4, 2, 4)


X = torch.randn(2, 16, 64)


@needs_native
@needs_triton
def test_inference_and_training_on_the_cpu(model):
    with torch.inference_mode():
        assert str(ifast.explain(model, X)) == "on cpu:\n2 x encoder_block(float32[2, 16, 64]): cpu"
    told = str(ifast.explain(model, X))
    assert "2 x encoder_block(float32[2, 16, 64]): reference (plain PyTorch)" in told
    assert "not cpu: gradients are wanted" in told
    assert "2 x block_attention(float32[2, 4, 16, 16]): cpu\n    not triton: q is on cpu" in told


@needs_triton
def test_a_gpu_that_is_not_here(model):
    served = {
        choice.op: choice.served for choice, _ in ifast.explain(model.bfloat16(), X.bfloat16(), device="cuda").choices
    }
    kernels = {"block_attention": "triton", "correlation_attention": "triton"}
    assert served == {"encoder_block": "reference", "stream_linear": "reference", **kernels}
    wide = ifast.explain(ifast.nn.Intraformer(1024, 4, 1, 1, 2), torch.randn(1, 4, 1024), device="cuda")
    assert "a head of torch.float32 is 512 wide (it takes 1 to 128)" in str(wide)
    assert str(wide).startswith("on cuda (by fake tensors):")


@needs_native
def test_other_peoples_models():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2, enable_nested_tensor=False
    ).eval()
    assert "no op of this library was called" in str(ifast.explain(encoder, X))
    ifast.accelerate(encoder)
    with torch.no_grad():
        assert [(c.served, count) for c, count in ifast.explain(encoder, X).choices] == [("cpu", 2)]
        assert "a src_mask is given" in str(ifast.explain(encoder, X, mask=torch.zeros(16, 16)))


def test_a_named_backend_and_bad_arguments(model):
    model.backend = "reference"
    assert "backend='reference' was named" in str(ifast.explain(model, X))
    with pytest.raises(ValueError, match="expected 'cuda'"):
        ifast.explain(model, X, device="tpu")
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        ifast.explain(lambda x: x, X, device="cuda")
