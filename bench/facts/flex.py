"""The kernel that PyTorch's FlexAttention would run for attention inside blocks, made without a GPU.

Inductor is told that there is one: the graph is traced on the CPU, moved to fake CUDA tensors and lowered, and the Triton source is
taken from what it generates. That uses its internals, so another PyTorch may need another way.
"""

import ast
import contextlib
import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from intraformer_fast.gpus import KIB, gpu


@dataclass(frozen=True)
class FlexLaunch:
    """A launch of the forward kernel; see `kernels/common/launches.py`.

    Attributes:
        out: the tensor among the arguments that it writes.
        trips: of its two loops, over the blocks that are masked in part and over those that are not, in the longest program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    out: Tensor
    trips: tuple[int, int]


def flex_launch(
    query: Tensor, key: Tensor, value: Tensor, num_blocks: int, capability: int, mask_block: int = 128
) -> FlexLaunch:
    """What `torch.compile(flex_attention)` launches for inference, with its own choice of tiles where the mask's blocks let it.

    Args:
        query, key, value: [batch, heads, n, width], contiguous, on the CPU or on `meta`.
        num_blocks: attention is inside each of so many equal runs of n.
        capability: 80 or 90.
        mask_block: rows and columns of the blocks that the mask is kept for; 128 is FlexAttention's default. Smaller ones skip more of
            what is masked, and need tiles of their size (it refuses its own larger ones).

    Raises:
        ValueError: n is no multiple of num_blocks, or no GPU of that capability is known.
        RuntimeError: this PyTorch generates something else than one Triton kernel.
    """
    length = query.shape[-2]
    if length % num_blocks:
        raise ValueError(f"n = {length}, num_blocks = {num_blocks}: expected equal blocks")
    graph, mask = _trace(query, length // num_blocks, mask_block)
    given = {"L_q_": query, "L_k_": key, "L_v_": value} | {f"L_mask_{name}": tensor for name, tensor in mask.items()}
    inputs = [given[str(node.target)] for node in graph.graph.nodes if node.op == "placeholder"]
    longest = [int(mask[name].max()) * mask_block for name in ("kv_num_blocks", "full_kv_num_blocks")]
    return _launch(_lower(graph, inputs, capability), inputs, query, longest)


def _trace(query: Tensor, size: int, mask_block: int) -> tuple[torch.fx.GraphModule, dict[str, Tensor]]:
    """The graph that Dynamo makes of one batch element on the CPU, and the tensors of the mask."""
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

    length = query.shape[-2]

    def inside(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return row // size == column // size

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Any:
        options: Any = {"BLOCK_M": mask_block, "BLOCK_N": mask_block} if mask_block < 128 else {}
        return flex_attention(q, k, v, block_mask=mask, kernel_options=options)

    mask = create_block_mask(inside, None, None, length, length, device="cpu", BLOCK_SIZE=mask_block)
    q, k, v = (torch.zeros(1, *query.shape[1:], dtype=query.dtype) for _ in range(3))
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        graphs.append(graph)
        return lambda *given: (q,)

    torch._dynamo.reset()
    torch.compile(attend, backend=backend, fullgraph=True)(q, k, v, mask)
    return graphs[0], {name: value for name, value in vars(mask).items() if isinstance(value, Tensor)}


def _lower(graph: torch.fx.GraphModule, inputs: Sequence[Tensor], capability: int) -> str:
    """The source that Inductor writes for the graph with inputs like these on a GPU."""
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _pretended(capability):
        with mode:
            fake = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for t in inputs]
            traced = make_fx(lambda *given: graph(*given), decomposition_table=select_decomp_table())(*fake)
        lowering = GraphLowering(traced, example_inputs=fake, is_inference=True)
        with V.set_fake_mode(mode), V.set_graph_handler(lowering), V.set_debug_handler(DebugContext()):
            lowering.run(*fake)
            wrapper, _ = lowering.codegen()
    return str(getattr(wrapper, "value", wrapper))


@contextlib.contextmanager
def _pretended(capability: int) -> Iterator[None]:
    """Inductor finds a GPU, by what it asks of torch and Triton."""
    import torch._inductor.scheduler as scheduler
    import torch.utils._triton as triton_utils
    from torch._dynamo.device_interface import CudaInterface

    model = gpu(capability)
    major, minor = divmod(capability, 10)
    properties = SimpleNamespace(
        name=model.name,
        gcnArchName="",  # asked for by a PyTorch without CUDA
        major=major,
        minor=minor,
        multi_processor_count=model.multiprocessors,
        warp_size=32,
        total_memory=80 * KIB**3,
        regs_per_multiprocessor=model.registers,
        max_threads_per_multi_processor=32 * model.warps,
        max_threads_per_block=1024,
        shared_memory_per_block=48 * KIB,
        shared_memory_per_block_optin=model.shared_bytes - KIB,
        shared_memory_per_multiprocessor=model.shared_bytes,
    )
    higher_order = sys.modules["torch._higher_order_ops.flex_attention"]
    answers: list[tuple[Any, str, Any]] = [
        (torch.cuda, "get_device_properties", lambda *_: properties),
        (torch.cuda, "get_device_capability", lambda *_: (major, minor)),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "device_count", lambda: 1),
        (CudaInterface, "is_available", staticmethod(lambda: True)),
        (CudaInterface, "is_triton_capable", staticmethod(lambda *_: True)),
        (CudaInterface, "raise_if_triton_unavailable", staticmethod(lambda *_: None)),
        (CudaInterface, "current_device", staticmethod(lambda: 0)),
        (CudaInterface, "get_device_properties", staticmethod(lambda *_: properties)),
        (CudaInterface, "get_compute_capability", staticmethod(lambda *_: capability)),
        (CudaInterface.Worker, "get_device_properties", staticmethod(lambda *_: properties)),
        (CudaInterface.Worker, "current_device", staticmethod(lambda: 0)),
        (triton_utils, "triton_hash_with_backend", lambda: "none"),
        (higher_order, "_permute_strides", lambda out, strides: out),  # copies, which asks for the device
        *((module, "has_triton", lambda *_: True) for module in (scheduler, triton_utils)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, answer))
        yield


KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)'''", re.S)
HEURISTICS = re.compile(r"^@triton_heuristics\..*?(?=^@triton\.jit)", re.S | re.M)
CALL = re.compile(r"^ +(triton_\w+)\.run\((.*), stream=", re.M)
BUFFER = re.compile(r"^ +(buf\d+) = empty_strided_cuda\((\(.*?\)), (\(.*?\)), torch\.(\w+)\)", re.M)


def _launch(source: str, inputs: Sequence[Tensor], query: Tensor, longest: Sequence[int]) -> FlexLaunch:
    """The launch that the generated code makes, with the inputs in the places of its own and new tensors for its buffers."""
    kernels, calls = KERNEL.findall(source), CALL.findall(source)
    if len(calls) != 1 or len(kernels) != 1 or calls[0][0] != kernels[0][0]:
        names = ", ".join(name for name, _ in kernels)
        raise RuntimeError(f"torch {torch.__version__} makes the kernels {names} of flex_attention: expected one")
    name, text = kernels[0]
    num_warps, num_stages = (int(re.findall(rf"{option}=(\d+)", text)[0]) for option in ("num_warps", "num_stages"))
    kernel = getattr(_imported(HEURISTICS.sub("", text)), name)
    *places, x, y, z = (value.strip() for value in calls[0][1].split(","))
    tensors = {f"arg{i}_1": tensor for i, tensor in enumerate(inputs)}
    for buffer, shape, stride, dtype in BUFFER.findall(source):
        sizes, strides = ast.literal_eval(shape), ast.literal_eval(stride)
        tensors[buffer] = torch.empty_strided(sizes, strides, dtype=getattr(torch, dtype), device=query.device)
    arguments = {name: tensors[place] for name, place in zip(kernel.arg_names, places, strict=True)}
    out = arguments["out_ptr0"]
    if (out.shape, out.dtype) != (query.shape, query.dtype):
        raise RuntimeError(f"torch {torch.__version__} writes {tuple(out.shape)} first: expected the output")
    columns = int(re.findall(r"BLOCK_N : tl.constexpr = (\d+)", text)[0])
    partly, whole = (keys // columns for keys in longest)
    return FlexLaunch(kernel, (int(x), int(y), int(z)), arguments, {}, num_warps, num_stages, out, (partly, whole))


def _imported(text: str) -> Any:
    """The module of this source. Triton reads the source of its kernels from their file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flex_attention_kernel.py"
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{file} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
