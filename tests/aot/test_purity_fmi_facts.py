"""What nvcc makes of purity_fmi: registers, spills and shared memory of every kernel, and the memory sectors that its PTX asks for.

Compiled, never run on a GPU: these are facts about the code, not speeds.
"""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from intraformer_fast import reference

NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: there is no compiled CUDA code to look at")

CSRC = Path(__file__).resolve().parents[2] / "csrc"
KERNELS = Path(__file__).with_name("purity_fmi_kernels.cu")
ROW_THREADS = 256

# Per architecture: registers a thread and bytes of shared memory a block, at most. Each lets an SM (65,536 registers) hold four
# blocks of 256 threads, half of the threads it can have: enough loads in flight for kernels that read every byte once.
BUDGETS = {"sm_80": (64, 256), "sm_90": (64, 256), "sm_100": (64, 256)}


def nvcc(*arguments: object) -> str:
    done = subprocess.run(
        [str(NVCC), "-std=c++20", "-O3", f"-I{CSRC}", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def parse_facts(words: str) -> dict[str, dict[str, int]]:
    """ptxas -v, by kernel."""
    facts = {}
    for part in words.split("Compiling entry function")[1:]:
        numbers = {
            "stack": r"(\d+) bytes stack frame",
            "spill": r"(\d+) bytes spill stores",
            "registers": r"Used (\d+) registers",
            "shared": r"(\d+) bytes smem",
        }
        found = {name: re.search(pattern, part) for name, pattern in numbers.items()}
        facts[re.search(r"'(\w+)'", part)[1]] = {name: int(match[1]) if match else 0 for name, match in found.items()}
    return facts


@pytest.mark.parametrize("architecture", BUDGETS)
def test_registers_and_shared_memory(tmp_path, architecture):
    words = nvcc(f"-arch={architecture}", "-cubin", "-Xptxas", "-v", KERNELS, "-o", tmp_path / "kernels.cubin")
    facts = parse_facts(words)
    # 4 prediction types x 6 target types, forward and backward; means and their gradient in two types.
    assert len(facts) == 2 * 24 + 4
    registers, shared = BUDGETS[architecture]
    for name, fact in facts.items():
        print(f"{architecture} {name}: {fact}")
        assert fact["stack"] == fact["spill"] == 0, f"{name} spills: {fact}"
        assert fact["registers"] <= registers, f"{name} needs {fact['registers']} registers, {registers} are budgeted"
        assert fact["shared"] <= shared, f"{name} needs {fact['shared']} bytes of shared memory, {shared} are budgeted"


@pytest.fixture(scope="module")
def compiled_ptx(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("ptx") / "kernels.ptx"
    nvcc("-arch=sm_80", "-ptx", KERNELS, "-o", file)
    return file.read_text()


class Pass:
    """A forward and a backward pass over [rows, 256] float32 logits with bool targets, executed from PTX."""

    def __init__(self, ptx, text: str, rows: int, columns: int = 256, masked: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.logits = 3 * torch.randn(rows, columns, generator=generator)
        self.target = torch.rand(rows, columns, generator=generator) < 0.5
        self.valid = torch.rand(rows, columns, generator=generator) < 0.7 if masked else None
        self.upstream = torch.randn(2, rows, generator=generator)
        shapes = {"loss": (rows,), "purity": (rows,), "sums": (rows, 3), "gradient": (rows, columns)}
        self.results = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
        memory = ptx.Memory()
        at = {name: memory.add(array) for name, array in self.results.items()}
        logits, loss, purity = (memory.add(t.numpy()) for t in (self.logits, *self.upstream))
        target = memory.add(self.target.numpy())
        valid = memory.add(self.valid.numpy()) if masked else 0
        matrices = (logits, columns, 1, target, columns, 1, valid, columns, 1)
        inputs = struct.pack("<QqqQqqQqqqq??6x", *matrices, rows, columns, True, False)
        vectors = [struct.pack("<Qq", loss, 1), struct.pack("<Qq", purity, 1)]
        block = (32, ROW_THREADS // 32)
        grid = -(-rows // block[1])
        forward, backward = (ptx.parse(text, f"{name}_kernelIfh") for name in ("forward", "backward"))
        outputs = struct.pack("<QQQ", at["loss"], at["purity"], at["sums"])
        self.forward = ptx.launch(forward, grid, block, [inputs, outputs], memory)
        pointers = [struct.pack("<Q", at[name]) for name in ("sums", "gradient")]
        self.backward = ptx.launch(backward, grid, block, [inputs, pointers[0], *vectors, pointers[1]], memory)

    def errors(self) -> dict[str, float]:
        """Of loss, purity and gradient, against the reference in float64."""
        logits = self.logits.double().requires_grad_()
        loss, purity = reference.purity_fmi(logits, self.target, valid=self.valid)
        (gradient,) = torch.autograd.grad([loss, purity], [logits], list(self.upstream.double()))
        truth = {"loss": loss, "purity": purity, "gradient": gradient}
        return {
            name: float((t.detach() - torch.from_numpy(self.results[name])).abs().max()) for name, t in truth.items()
        }


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("columns", [256, 100, 37])
def test_executed_ptx_is_right(ptx, compiled_ptx, columns, masked):
    for name, error in Pass(ptx, compiled_ptx, 19, columns, masked).errors().items():
        assert error < 1e-6, f"{name} is off by {error}"


def test_sectors_are_within_a_twentieth_of_the_least(ptx, compiled_ptx):
    rows, columns = 64, 256
    done = Pass(ptx, compiled_ptx, rows)
    # Forward reads logits and targets and writes loss, purity and three sums; backward reads the same, those sums and two
    # gradients, and writes one.
    least = {
        "forward": rows * (4 * columns + columns + 5 * 4) / ptx.SECTOR,
        "backward": rows * (4 * columns + columns + 5 * 4 + 4 * columns) / ptx.SECTOR,
    }
    for name, counts in (("forward", done.forward), ("backward", done.backward)):
        instructions = sum(counts.instructions.values()) * ptx.WARP / (rows * columns)
        print(
            f"{name}: {counts.sectors / least[name]:.4f} of the least sectors, {instructions:.1f} PTX instructions an element"
        )
        assert counts.sectors <= 1.05 * least[name]
        assert counts.sectors >= least[name], "fewer sectors than bytes: the count is wrong"


def test_offsets_are_64_bit(ptx, compiled_ptx):
    """The last rows of a batch whose every matrix has more than 2^32 elements; only those rows exist."""
    columns, rows_per_block = 256, ROW_THREADS // 32
    rows = 2**25 + rows_per_block
    first = rows - rows_per_block
    strides = {"logits": 2**9 * 3, "target": 2**8 * 5}
    logits = np.random.default_rng(0).standard_normal((rows_per_block, columns)).astype(np.float32)
    target = logits > 0.3
    memory = ptx.Memory()
    base = {
        name: (index + 1) << 48 for index, name in enumerate(("logits", "target", "loss", "purity", "sums", "gradient"))
    }
    for i in range(rows_per_block):
        memory.add(logits[i], base["logits"] + (first + i) * strides["logits"] * 4)
        memory.add(target[i], base["target"] + (first + i) * strides["target"])
    results = {"loss": 1, "purity": 1, "sums": 3, "gradient": columns}
    for name, width in results.items():
        results[name] = np.full((rows_per_block, width), np.nan, np.float32)
        memory.add(results[name], base[name] + first * width * 4)
    matrices = (base["logits"], strides["logits"], 1, base["target"], strides["target"], 1, 0, 0, 0)
    inputs = struct.pack("<QqqQqqQqqqq??6x", *matrices, rows, columns, True, False)
    outputs = struct.pack("<QQQ", base["loss"], base["purity"], base["sums"])
    upstream = [struct.pack("<Qq", base["loss"], 1), struct.pack("<Qq", base["purity"], 1)]
    pointers = [struct.pack("<Q", base[name]) for name in ("sums", "gradient")]
    forward, backward = (ptx.parse(compiled_ptx, f"{name}_kernelIfh") for name in ("forward", "backward"))
    grid = rows // rows_per_block
    launch = {"grid": grid, "block": (32, rows_per_block), "memory": memory, "blocks": [grid - 1]}
    ptx.launch(forward, parameters=[inputs, outputs], **launch)
    ptx.launch(backward, parameters=[inputs, pointers[0], *upstream, pointers[1]], **launch)
    loss, purity = reference.purity_fmi(torch.from_numpy(logits), torch.from_numpy(target))
    assert np.abs(results["loss"][:, 0] - loss.numpy()).max() < 1e-6
    assert np.abs(results["purity"][:, 0] - purity.numpy()).max() < 1e-6
    assert not np.isnan(results["gradient"]).any()
