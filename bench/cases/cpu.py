"""The attentions, the whole model and a step of its training on the CPU, beside what else serves them there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast import cost, native, reference
from intraformer_fast import nn as fast
from intraformer_fast.acceleration import accelerate
from intraformer_fast.ops import block_attention, correlation_attention, routing
from intraformer_fast.reference.decomposition import subcluster_bounds

from ..registry import EAGER, OURS, Case, Inputs, Limit, Make, Step, Work, register

CPU = ("cpu",)
MEDIUM = 'eager, float32 matmul "medium"'
# Of the logits' Euclidean norm: what products of 8 bits may be off by, in a model of random weights.
INT8_DISTANCE, BFLOAT16_DISTANCE = 0.05, 0.05


@register("block_attention_cpu", "Self-attention inside the sub-clusters on the CPU, forward and backward.", CPU)
def block_attention_cases() -> Iterator[Case]:
    """The paper's size, full attention over as many tokens, then the demo's."""
    yield _block_case((4, 4, 256, 128), 4)
    yield _block_case((4, 4, 256, 128), 4, backward=False)
    yield _block_case((4, 4, 256, 128), 2)
    yield _block_case((4, 4, 256, 128), 1)
    yield _block_case((16, 4, 80, 32), 4)
    yield _block_case((16, 4, 80, 32), 1)
    yield _block_case((4, 4, 256, 128), 4, torch.bfloat16)


@register("correlation_attention_cpu", "C-ATT of all streams of a block on the CPU, forward and backward.", CPU)
def correlation_attention_cases() -> Iterator[Case]:
    """The paper's size, then the demo's."""
    yield _stream_case((4, 256, 512), 4)
    yield _stream_case((4, 256, 512), 4, backward=False)
    yield _stream_case((16, 80, 128), 4)
    yield _stream_case((4, 256, 512), 4, torch.bfloat16)


@register("model_cpu", "The whole Intraformer on the CPU, without gradients.", CPU)
def model_cases() -> Iterator[Case]:
    """The demo's size with one sub-cluster and four, then the paper's; in float32 and under autocast."""
    for batch, sizes in ((16, (128, 80, 1, 2, 4)), (16, (128, 80, 4, 2, 4)), (4, (512, 256, 4, 6, 4))):
        for dtype in (torch.float32, torch.bfloat16):
            yield _model_case(batch, sizes, autocast=dtype)


@register("model_int8_cpu", "The whole Intraformer on the CPU in int8, without gradients.", CPU)
def int8_cases() -> Iterator[Case]:
    """The sizes of `model_cpu`."""
    for batch, sizes in ((16, (128, 80, 1, 2, 4)), (16, (128, 80, 4, 2, 4)), (4, (512, 256, 4, 6, 4))):
        yield _int8_case(batch, sizes)


@register("training_step_cpu", "Forward, backward and Adam of the whole Intraformer on the CPU.", CPU)
def training_cases() -> Iterator[Case]:
    """The demo's size with one sub-cluster and four, in float32 and under autocast."""
    for num_subclusters in (1, 4):
        for dtype in (torch.float32, torch.bfloat16):
            yield _model_case(16, (128, 80, num_subclusters, 2, 4), backward=True, autocast=dtype)


@register(
    "encoder_cpu", "PyTorch's own encoder of six layers, accelerated in place, without gradients on the CPU.", CPU
)
def encoder_cases() -> Iterator[Case]:
    """As in DETR (post-norm, ReLU), then pre-norm with GELU; 80 neighbors and their centroid."""
    for clusters, hidden in ((16, 1024), (16, 2048), (64, 2048)):
        yield _encoder_case(clusters, hidden, "relu", norm_first=False)
    yield _encoder_case(16, 2048, "gelu", norm_first=True)


def _encoder_case(batch: int, hidden: int, activation: str, *, norm_first: bool) -> Case:
    n, width, heads, layers = 81, 256, 8, 6

    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            width, heads, hidden, activation=activation, batch_first=True, norm_first=norm_first
        )
        return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()

    def inputs(generator: torch.Generator) -> Inputs:
        tokens = torch.randn(batch, n, width, generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            return {"tokens": tokens, **encoder().state_dict()}

    def make(prepare: Callable[[nn.Module], Any]) -> Make:
        def step(inputs: Inputs) -> Step:
            tokens, *parameters = inputs.values()
            model = encoder().to(tokens.dtype)
            model.load_state_dict(dict(zip(list(inputs)[1:], parameters, strict=True)))
            run = prepare(model)

            def infer() -> Mapping[str, Tensor]:
                with torch.inference_mode():
                    return {"output": run(tokens)}

            return infer

        return step

    def accelerated(model: nn.Module) -> nn.Module:
        accelerate(model)
        for layer in model.layers:  # type: ignore[union-attr]
            layer.backend = "cpu"  # raises, and says why, where PyTorch would serve and be timed as ours
        return model

    eager = make(lambda model: model)
    return Case(
        f"{batch} x {n} tokens, d={width} f={hidden} L={layers} H={heads}, {'pre' if norm_first else 'post'}-norm {activation}",
        inputs,
        {
            OURS: make(accelerated),
            EAGER: eager,
            MEDIUM: _medium(eager),
            "torch.compile": make(lambda model: torch.compile(model, dynamic=False)),
        },
        cost.encoder_layer(batch, n, width, ffn_dim=hidden).times(layers),
        limits(torch.float32),
    )


def _block_case(
    shape: tuple[int, int, int, int], num_blocks: int, dtype: torch.dtype = torch.float32, backward: bool = True
) -> Case:
    batch, heads, n, width = shape

    def inputs(generator: torch.Generator) -> Inputs:
        projected = torch.randn(batch, n, 3, heads, width, generator=generator).to(dtype)
        grad = torch.randn(batch, n, heads, width, generator=generator).to(dtype)
        # As the model has them: three views of one projection, the heads of a token side by side.
        return dict(zip("qkv", projected.permute(2, 0, 3, 1, 4), strict=True)) | {"grad": grad.transpose(1, 2)}

    def make(op: Callable[..., Tensor]) -> Make:
        return lambda inputs: _step(
            lambda leaves: op(leaves["q"], leaves["k"], leaves["v"], num_blocks),
            {name: inputs[name] for name in "qkv"},
            inputs["grad"] if backward else None,
        )

    def ours(inputs: Inputs) -> Step:
        routing.select("block_attention", inputs["q"], inputs["k"], inputs["v"], None, backend="cpu")
        return make(block_attention.block_attention)(inputs)

    return Case(
        f"{list(shape)} in {num_blocks}, {_short(dtype)}" + ("" if backward else ", forward only"),
        inputs,
        {
            OURS: ours,
            EAGER: make(reference.block_attention),
            MEDIUM: _medium(make(reference.block_attention)),
            "scaled_dot_product_attention": make(_sdpa),
            "torch.compile": lambda inputs: make(torch.compile(reference.block_attention, dynamic=False))(inputs),
        },
        cost.block_attention(*shape, num_blocks, item_bytes=dtype.itemsize, backward=backward),
        limits(dtype),
    )


def _sdpa(q: Tensor, k: Tensor, v: Tensor, num_blocks: int) -> Tensor:
    """Near-equal runs as a batch of their own; where they are equal no copy is made of more than that."""
    outputs = [
        F.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, start:stop], v[:, :, start:stop])
        for start, stop in subcluster_bounds(q.shape[2], num_blocks)
    ]
    return outputs[0] if num_blocks == 1 else torch.cat(outputs, dim=2)


def _stream_case(
    shape: tuple[int, int, int], num_subclusters: int, dtype: torch.dtype = torch.float32, backward: bool = True
) -> Case:
    batch, n, width = shape
    streams, length = num_subclusters - 1, n // num_subclusters

    def inputs(generator: torch.Generator) -> Inputs:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        made = {
            "member": draw(batch, streams * length, width),
            "anchor": draw(batch, length, width),
            "weight": draw(streams, width, width) / width,
            "grad": draw(batch, streams * length, width),
        }
        return {name: t.to(dtype) for name, t in made.items()}

    def make(op: Callable[..., Tensor]) -> Make:
        return lambda inputs: _step(
            lambda leaves: op(*leaves.values(), None, None, streams, False),
            {name: inputs[name] for name in ("member", "anchor", "weight")},
            inputs["grad"] if backward else None,
        )

    def ours(inputs: Inputs) -> Step:
        routing.select("correlation_attention", inputs["member"], inputs["anchor"], inputs["weight"], backend="cpu")
        return make(correlation_attention.attended)(inputs)

    return Case(
        f"{list(shape)} in {num_subclusters}, {_short(dtype)}" + ("" if backward else ", forward only"),
        inputs,
        {
            OURS: ours,
            EAGER: make(correlation_attention.streams),
            MEDIUM: _medium(make(correlation_attention.streams)),
            "torch.compile": lambda inputs: make(torch.compile(correlation_attention.streams, dynamic=False))(inputs),
        },
        cost.correlation_attention(
            batch, streams * length, length, width, weights=streams, item_bytes=dtype.itemsize, backward=backward
        ),
        limits(dtype),
    )


def _model_case(
    batch: int,
    sizes: tuple[int, int, int, int, int],
    backward: bool = False,
    autocast: torch.dtype = torch.float32,
) -> Case:
    width, n, num_subclusters, layers, heads = sizes

    def inputs(generator: torch.Generator) -> Inputs:
        features = F.normalize(torch.randn(batch, n, width, generator=generator), dim=-1)
        # The parameters too: the reference runs with all of it in float64.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            parameters = reference.Intraformer(*sizes).state_dict()
        return {"features": features, "grad": torch.randn(batch, n, generator=generator), **parameters}

    def make(kind: Callable[..., nn.Module], wrap: Callable[[Any], Any] = lambda model: model) -> Make:
        return _model_make(sizes, kind, wrap, backward, autocast)

    def ours(inputs: Inputs) -> Step:
        if backward:
            routing.select("block_attention", inputs["features"][None], backend="cpu")
            return make(fast.Intraformer)(inputs)
        return make(_ours)(inputs)

    others = {}
    if autocast == torch.float32 and not backward:
        example = torch.zeros(batch, n, width)
        others["ONNX Runtime"] = make(reference.Intraformer, lambda model: _by_onnx_runtime(model, example))
    flops = cost.intraformer(batch, n, width, num_subclusters=num_subclusters, num_layers=layers).flops
    parameter_count = sum(p.numel() for p in reference.Intraformer(*sizes).parameters())
    return Case(
        f"{batch} clusters, d={width} n={n} k={num_subclusters} L={layers} H={heads}, {_short(autocast)}",
        inputs,
        {
            OURS: ours,
            EAGER: make(reference.Intraformer),
            MEDIUM: _medium(make(reference.Intraformer)),
            "torch.compile": make(reference.Intraformer, lambda model: torch.compile(model, dynamic=False)),
            **others,
        },
        Work(4 * (batch * n * (width + 1) + (1 + 2 * backward) * parameter_count), (1 + 2 * backward) * flops),
        limits(autocast),
    )


def _model_make(
    sizes: tuple[int, int, int, int, int],
    kind: Callable[..., nn.Module],
    wrap: Callable[[Any], Any] = lambda model: model,
    backward: bool = False,
    autocast: torch.dtype = torch.float32,
) -> Make:
    def step(inputs: Inputs) -> Step:
        features, grad, *parameters = inputs.values()
        model = kind(*sizes).to(features.dtype)
        model.load_state_dict(dict(zip(list(inputs)[2:], parameters, strict=True)))
        model.train(backward)
        run = wrap(model)
        half = autocast == torch.bfloat16 and features.dtype == torch.float32

        def infer() -> Mapping[str, Tensor]:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return {"logits": run(features)}

        # At a rate of 0 the parameters stay where they are, for as much work: every step computes the same.
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

        def train() -> Mapping[str, Tensor]:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = run(features)
            optimizer.zero_grad()
            logits.backward(grad.to(logits.dtype))
            optimizer.step()
            found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            return {"logits": logits.detach(), **found}

        return train if backward else infer

    return step


def _int8_case(batch: int, sizes: tuple[int, int, int, int, int]) -> Case:
    """The float32 case, with the same model in coarser products as ours."""
    float32 = _model_case(batch, sizes)
    half = _model_make(sizes, _ours, autocast=torch.bfloat16)

    def bfloat16(inputs: Inputs) -> Step:
        step = half(inputs)
        return lambda: {name: t.float() for name, t in step().items()}

    def int8(*sizes: int) -> fast.Intraformer:
        model = _ours(*sizes)
        model.compute = "int8"
        return model

    candidates = {
        OURS: _model_make(sizes, int8),
        EAGER: float32.candidates[EAGER],
        "ours, float32": float32.candidates[OURS],
        "ours, bfloat16": bfloat16,
    }
    coarse = {OURS: INT8_DISTANCE, "ours, bfloat16": BFLOAT16_DISTANCE}
    label = float32.label.replace("float32", "int8")
    return replace(float32, label=label, candidates=candidates, coarse=coarse)


def _ours(*sizes: int) -> fast.Intraformer:
    return fast.Intraformer(*sizes, backend="cpu")


def _by_onnx_runtime(model: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The exported model, in as many threads as torch has."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (what torch exports by)
    except ImportError as error:
        raise NotImplementedError(f"{error.name} is not installed: pip install 'intraformer-fast[onnx]'") from error
    program = torch.onnx.export(model.eval(), (example,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda features: torch.from_numpy(session.run(None, {name: features.numpy()})[0])


def _step(op: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], grad: Tensor | None) -> Step:
    leaves = {name: t.detach().requires_grad_(grad is not None) for name, t in inputs.items()}

    def step() -> Mapping[str, Tensor]:
        output = op(leaves)
        if grad is None:
            return {"output": output}
        gradients: Sequence[Tensor] = torch.autograd.grad(output, list(leaves.values()), grad)
        return {"output": output} | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}

    return step


def _medium(make: Make) -> Make:
    """PyTorch's own switch: float32 products by oneDNN, which may round their operands to bfloat16 where that is faster."""

    def switched(inputs: Inputs) -> Step:
        step = make(inputs)

        def run() -> Mapping[str, Tensor]:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("medium")
            try:
                return step()
            finally:
                torch.set_float32_matmul_precision(before)

        return run

    return switched


def limits(dtype: torch.dtype) -> dict[str, Limit]:
    """Multiplying in registers alone, by the instructions that the kernels use for products of this dtype."""
    if native.NOT_LOADED["cpu"]:
        square = torch.zeros(1024, 1024)
        return {"torch.mm": Limit(lambda inputs: lambda: square @ square, Work(0, 2 * 1024**3))}
    steps, ops = 200_000, torch.ops.intraformer_fast
    half = dtype == torch.bfloat16 and ops.cpu_instruction_set() == "avx512_bf16"
    limit = Limit(lambda inputs: lambda: ops.cpu_peak(steps, half), Work(0, ops.cpu_peak(steps, half)))
    return {f"multiply and add, {'bfloat16' if half else 'float32'}": limit}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
