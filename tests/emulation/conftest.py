"""Builds the harness that runs the CUDA source of purity_fmi on the CPU, and talks to it."""

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

PREDICTIONS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TARGETS = (torch.bool, torch.int64, torch.float32, torch.float64, torch.float16, torch.bfloat16)
MEANS = 5

# Each flavor: how the kernels are compiled, and how the scheduler is. ThreadSanitizer sees memset and memcpy only as calls.
ADDRESS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
FLAVORS = {
    "plain": ("-O1", "-O2"),
    "address": (f"-O1 -g {ADDRESS}", f"-O1 -g {ADDRESS}"),
    "thread": ("-O1 -g -fsanitize=thread -fno-builtin", "-O2 -DSIMT_THREAD_SANITIZER"),
}
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # a case that fails ends the process, and leaves what it had
    "TSAN_OPTIONS": "halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class RowsCase:
    """One forward and one backward pass."""

    prediction: Tensor
    target: Tensor
    valid: Tensor | None
    from_logits: bool
    bound: str
    grad_loss: Tensor
    grad_purity: Tensor
    order: int = 0

    def encode(self) -> bytes:
        header = struct.pack(
            "<18q",
            0,
            PREDICTIONS.index(self.prediction.dtype),
            0 if self.target.dtype == torch.uint8 else TARGETS.index(self.target.dtype),
            self.valid is not None,
            self.from_logits,
            self.bound == "exact",
            *self.prediction.shape,
            *self.prediction.stride(),
            *self.target.stride(),
            *((0, 0) if self.valid is None else self.valid.stride()),
            self.grad_loss.stride(0),
            self.grad_purity.stride(0),
            0,
            self.order,
        )
        tensors = (self.prediction, self.target, self.valid, self.grad_loss, self.grad_purity)
        return header + b"".join(map(storage, tensors))

    def outputs(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        rows, columns = self.prediction.shape
        dtype = accumulator(self.prediction.dtype)
        return [((rows,), dtype), ((rows,), dtype), ((rows, 3), dtype), ((rows, columns), self.prediction.dtype)]


@dataclass(frozen=True)
class MeansCase:
    """The batch's means and their gradient."""

    loss: Tensor
    purity: Tensor
    counted: Tensor | None
    grad: Tensor
    detach_point: bool
    order: int = 0

    def encode(self) -> bytes:
        header = [1, PREDICTIONS.index(self.loss.dtype), 0, self.counted is not None, 0, 0, len(self.loss), 0]
        header += [0] * 6 + [self.grad.stride(0), 0, self.detach_point, self.order]
        tensors = (self.loss, self.purity, self.counted, self.grad)
        return struct.pack("<18q", *header) + b"".join(map(storage, tensors))

    def outputs(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [
            ((MEANS,), self.loss.dtype),
            (tuple(self.loss.shape), self.loss.dtype),
            (tuple(self.loss.shape), self.loss.dtype),
        ]


def storage(tensor: Tensor | None) -> bytes:
    """The whole memory under a tensor, its size and where in it the tensor starts."""
    if tensor is None:
        return struct.pack("<qq", 0, 0)
    raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return struct.pack("<qq", len(raw), tensor.storage_offset() * tensor.element_size()) + raw.numpy().tobytes()


def execute(command: Sequence[str | Path], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs a compiled program. Older ThreadSanitizers refuse some kernels' address randomization: then once more without it."""

    def run(*prefix: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **SANITIZER_OPTIONS}
        return subprocess.run([*prefix, *command], input=given, capture_output=True, timeout=120, env=environment)

    done = run()
    return run("setarch", "-R") if b"unexpected memory mapping" in done.stderr else done


class Harness:
    """One compiled harness."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, cases: Sequence[RowsCase | MeansCase]) -> list[list[Tensor]]:
        """The outputs of each case. A broken rule raises RuntimeError with the harness's words."""
        done = execute([self.program], b"".join(case.encode() for case in cases))
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        results, position = [], 0
        for case in cases:
            tensors = []
            for shape, dtype in case.outputs():
                size = torch.Size(shape).numel() * dtype.itemsize
                raw = torch.frombuffer(bytearray(done.stdout[position : position + size] or b"\0"), dtype=torch.uint8)
                tensors.append(raw[:size].view(dtype).reshape(shape))
                position += size
            results.append(tensors)
        assert position == len(done.stdout)
        return results


class Compiler:
    """Compiles against csrc, or a changed copy of it. What was compiled before from the same text is taken again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        compiler = shutil.which("g++")
        assert compiler, "g++ was not found: the CUDA source is run on the CPU by a program that it compiles"
        self.compiler = compiler

    def program(self, source: Path, flavor: str, *options: str, sources: Path = ROOT / "csrc") -> Path:
        """A C++ file linked with the scheduler of csrc/simt, in one of FLAVORS."""
        kernel_flags, scheduler_flags = (flags.split() for flags in FLAVORS[flavor])
        scheduler = self.compiled(
            f"simt-{flavor}.o", sources / "simt", ["-c", *scheduler_flags, "simt/simt.cpp"], sources
        )
        arguments = [*kernel_flags, *options, str(source), str(scheduler)]
        return self.compiled(f"{source.stem}-{flavor}", sources, arguments, sources, source)

    def compiled(self, name: str, folder: Path, arguments: list[str], sources: Path, *more: Path) -> Path:
        headers = sorted(path for path in folder.rglob("*") if path.suffix in {".h", ".cpp", ".cuh"})
        text = b"".join(path.read_bytes() for path in (*headers, *more)) + repr(arguments).encode()
        result = self.folder / f"{hashlib.sha256(text).hexdigest()[:16]}-{name}"
        if not result.exists():
            new = result.with_name(f"new-{os.getpid()}-{result.name}")
            command = [self.compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-I."]
            done = subprocess.run([*command, *arguments, "-o", new], cwd=sources, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            new.rename(result)
        return result


@pytest.fixture(scope="session")
def compiler(pytestconfig: pytest.Config) -> Compiler:
    return Compiler(pytestconfig.cache.mkdir("emulation"))


@pytest.fixture(scope="session")
def harness(compiler: Compiler) -> Callable[..., Harness]:
    """harness(flavor, type_pairs): the harness of purity_fmi; sources= names a changed copy of csrc, whose warnings do not count."""

    def build(flavor: str, type_pairs: int, sources: Path | None = None) -> Harness:
        changed = [] if sources is None else ["-w"]
        options = [f"-DTYPE_PAIRS={type_pairs}", *changed]
        return Harness(
            compiler.program(HERE / "purity_fmi_harness.cpp", flavor, *options, sources=sources or ROOT / "csrc")
        )

    return build


@pytest.fixture(scope="session")
def rows_case() -> type[RowsCase]:
    return RowsCase


@pytest.fixture(scope="session")
def means_case() -> type[MeansCase]:
    return MeansCase


@pytest.fixture(scope="session")
def run_program(compiler: Compiler) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """run_program(name, flavor, *arguments): compiles a C++ file of this folder and runs it."""

    def run(name: str, flavor: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return execute([compiler.program(HERE / name, flavor), *arguments])

    return run
