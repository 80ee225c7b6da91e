"""The drop-in modules under what torch offers around modules: the same numbers, no graph breaks, no surprises."""

import copy
import io
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import intraformer_fast as ifast
from intraformer_fast.ops import routing

WIDTH = 32
MODULES = {
    "Intraformer": lambda: ifast.nn.Intraformer(WIDTH, 12, 2, 1, 2),
    "BlockSelfAttention": lambda: Attending(),
    "FusedEncoderLayer": lambda: ifast.nn.FusedEncoderLayer(WIDTH, 2, 64, 0.0, batch_first=True),
}


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = ifast.nn.BlockSelfAttention(WIDTH, 2, num_blocks=3, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]().eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_without_graph_breaks_for_any_batch_and_length(module, backend):
    from torch._dynamo.testing import CompileCounterWithBackend

    if backend == "aot_eager" and not isinstance(module, Attending):
        pytest.skip("tracing the gradients takes long: one module stands for all")
    torch._dynamo.reset()
    counted = CompileCounterWithBackend(backend)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counted)
    for batch, n in ((3, 12), (5, 9), (2, 7)):
        x = torch.randn(batch, n, WIDTH)
        close(compiled(x), module(x))
    assert counted.frame_count <= 2  # lengths that the blocks divide may have a graph of their own
    loss = compiled(x).square().sum()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_export(module):
    x = torch.randn(3, 12, WIDTH)
    with torch.no_grad():
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
        y = torch.randn(5, 12, WIDTH)
        close(exported.module()(y), module(y))


def test_autocast(module):
    x = torch.randn(3, 12, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
        found.float().square().sum().backward()
    torch.testing.assert_close(found.float(), module(x), rtol=0.05, atol=0.05)
    assert any(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(module, mode):
    x = torch.randn(3, 12, WIDTH)
    expected = module(x)
    with mode():
        found = module(x)
    assert expected.requires_grad
    assert not found.requires_grad
    close(found, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(module, use_reentrant):
    x = torch.randn(3, 12, WIDTH, requires_grad=True)
    (expected,) = torch.autograd.grad(module(x).square().sum(), x)
    checkpoint(module, x, use_reentrant=use_reentrant).square().sum().backward()
    close(x.grad, expected)


def test_copies(module):
    x = torch.randn(3, 12, WIDTH)
    with torch.no_grad():
        expected = module(x)  # packs weights, which are no part of the module
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        for twin in (
            copy.deepcopy(module),
            pickle.loads(pickle.dumps(module)),
            torch.load(file, weights_only=False),
        ):
            assert torch.equal(twin(x), expected)
            next(twin.parameters()).mul_(2)
            assert torch.equal(module(x), expected)


def test_moved_after_use(module):
    x = torch.randn(3, 12, WIDTH)
    with torch.no_grad():
        expected = module(x)
        close(module.to(torch.float64)(x.double()).float(), expected)
        assert module.to("meta")(x.to("meta")).device.type == "meta"
    assert module.to_empty(device="cpu").float() is module


def test_threads(module):
    inputs = [torch.randn(3, 12, WIDTH) for _ in range(16)]
    alone = copy.deepcopy(module)

    def run(x):  # the first calls pack the weights, several at once
        with torch.inference_mode():
            return module(x)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, inputs * 4))
    with torch.inference_mode():
        for ours, right in zip(found, [alone(x) for x in inputs] * 4, strict=True):
            close(ours, right)


@pytest.mark.parametrize(
    "change",
    [
        lambda q: (q.double(),),
        lambda q: (q.to("meta"),),
        lambda q: (q[:, :, :3],),
        lambda q: (q.requires_grad_(),),
        lambda q: (q.as_subclass(Marked),),
        lambda q: (q, torch.ones(2, 6, dtype=torch.bool)),
    ],
)
def test_a_remembered_choice_is_the_choice(change):
    """What is remembered of one call serves no other that it would not be chosen for."""
    call = [torch.randn(2, 2, 6, 16)] * 3
    routing.select("block_attention", *call)
    q, *valid = change(torch.randn(2, 2, 6, 16))
    arguments = (q, q, q, *valid)
    contexts = (torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16), torch.enable_grad)
    for context in contexts:
        with context():
            for op in ("block_attention", "gather_block_attention"):
                expected = routing.choose(op, arguments, "auto", ())
                for _ in range(2):
                    assert routing.remembered(op, arguments, "auto", ()) == expected


class Marked(torch.Tensor):
    """A subclass."""


def test_distributed_data_parallel():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(Path(__file__).with_name("distributed_training.py"))]
    both = [subprocess.Popen(command, env={**shared, "RANK": rank}) for rank in "01"]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
