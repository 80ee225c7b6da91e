"""The fused encoder block against the reference in float64: as near to it as the reference in the same precision is, or twice."""

import copy

import pytest
import torch
from cases.instruction_sets import INSTRUCTION_SETS, run_check

from intraformer_fast import native, nn, reference
from intraformer_fast.ops import encoder_block, routing

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

PRECISIONS = ("fp32", "bf16")
# What int8 is compared with stands in test_encoder_block_int8.py.
WAYS = (*PRECISIONS, "int8")
# embed_dim, num_neighbors, num_subclusters, num_layers, num_heads, options
MODELS = {
    "paper, narrow": (128, 256, 4, 2, 4, {}),
    "one sub-cluster": (64, 80, 1, 2, 4, {}),
    "ragged, anchor asks": (96, 37, 4, 2, 2, {"cross_query": "anchor"}),
    "many short ones": (32, 250, 16, 1, 2, {"share_cross_weights": True, "ffn_dim": 48}),
    "wide": (512, 130, 2, 1, 4, {}),
    "without C-ATT": (64, 50, 4, 2, 2, {"cross_attention": False}),
    "similarities": (64, 80, 1, 2, 4, {"tokens": "similarities"}),
}


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def model_pair(name, **more):
    """The fused model and the reference with the same parameters, every one of them away from its start."""
    *sizes, options = MODELS[name]
    fast = nn.Intraformer(*sizes, **options, **more).eval()
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    eager = reference.Intraformer(*sizes, **options).eval()
    eager.load_state_dict(fast.state_dict())
    return fast, eager


def run(model, x, valid=None, precision="fp32"):
    if precision == "int8":
        model.compute = "int8"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return model(x, valid).float()


def features(batch, n, width):
    return torch.nn.functional.normalize(torch.randn(batch, n, width), dim=-1)


def assert_parity(fast, eager, x, valid=None, precision="fp32"):
    found, twin = run(fast, x, valid, precision).double(), run(eager, x, valid, precision).double()
    with torch.inference_mode():
        exact = copy.deepcopy(eager).double()(x.double(), valid)
    units = 8 * torch.finfo(torch.float32).eps * (1 + exact.abs().max())
    for size in (lambda e: e.abs().max(), lambda e: e.square().mean().sqrt()):
        assert size(found - exact) <= 2 * size(twin - exact) + units
    # The fused block did run: other roundings than the reference's.
    assert not torch.equal(found, twin)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_parity(name, masked, precision):
    fast, eager = model_pair(name, backend="cpu")
    # Many logits: the largest error of a few says little.
    x = features(24, fast.num_neighbors, fast.embed_dim)
    valid = None
    if masked:
        valid = torch.rand(x.shape[:2]) < 0.7
        valid[1] = False
    assert_parity(fast, eager, x, valid, precision)


@pytest.mark.parametrize(
    "x",
    [
        # Many clusters: the largest of a few errors says little.
        features(12, 37, 96) * 1e4,
        features(12, 37, 96) * 1e-4,
        features(12, 1, 96).expand(12, 37, 96),
        torch.eye(96)[torch.arange(12 * 37).reshape(12, 37) % 19],
        torch.full((1, 37, 96), 1e-40),
        features(99, 3, 96),
        features(300, 1, 96),
        features(37, 12, 96).transpose(0, 1),
    ],
    ids=["large", "small", "all equal", "one-hot", "denormal", "empty sub-clusters", "a cluster of one", "transposed"],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_unusual_inputs(x, precision):
    assert_parity(*model_pair("ragged, anchor asks"), x, precision=precision)


@pytest.mark.parametrize("precision", WAYS)
@pytest.mark.parametrize("name", ["paper, narrow", "ragged, anchor asks"])
def test_poisoned_padding_changes_no_bit(name, precision):
    fast, _ = model_pair(name)
    x = features(3, fast.num_neighbors, fast.embed_dim)
    valid = torch.rand(x.shape[:2]) < 0.7
    clean = run(fast, x, valid, precision)
    for poison in (torch.nan, torch.inf, 1e30):
        poisoned = x.masked_fill(~valid[..., None], poison)
        assert torch.equal(run(fast, poisoned, valid, precision), clean)
    assert (clean[~valid] == 0).all()


def test_poisoned_padding_of_the_block_itself():
    fast, _ = model_pair("paper, narrow")
    x = features(2, 256, 128)
    valid = torch.rand(x.shape[:2]) < 0.7
    bounds = reference.subcluster_bounds(256, 4)
    with torch.inference_mode():
        clean, poisoned = (
            fast._block(fast.blocks[0], x.masked_fill(~valid[..., None], padding), valid, bounds)
            for padding in (0.0, torch.nan)
        )
    assert torch.equal(clean[valid], poisoned[valid])


@pytest.mark.parametrize("precision", WAYS)
def test_nan_stays_in_its_cluster(precision):
    fast, _ = model_pair("paper, narrow")
    x = features(3, 256, 128)
    clean = run(fast, x, precision=precision)
    x[1, 5] = torch.nan
    found = run(fast, x, precision=precision)
    assert found[1].isnan().all()  # sub-cluster 0, which all the others look at
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("precision", WAYS)
@pytest.mark.parametrize("name", ["paper, narrow", "many short ones"])
def test_same_bits_on_any_threads_and_in_any_batch(name, precision):
    fast, _ = model_pair(name)
    x = features(5, fast.num_neighbors, fast.embed_dim)
    if precision == "int8":
        fast.compute = "int8"

    def run_block(x):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return fast._block(fast.blocks[0], x, None, reference.subcluster_bounds(x.shape[1], fast.num_subclusters))

    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(run_block(x))
        alone = [run_block(row[None]) for row in x]
    finally:
        torch.set_num_threads(threads)
    for result in (*results[1:], torch.cat(alone)):
        assert torch.equal(result, results[0])


def check_this_set():
    for precision in PRECISIONS:
        fast, eager = model_pair("ragged, anchor asks", backend="cpu")
        assert_parity(fast, eager, features(12, 37, 96), torch.rand(12, 37) < 0.7, precision)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_this_set")


def test_a_changed_parameter_is_seen():
    fast, eager = model_pair("one sub-cluster")
    x = features(2, 80, 64)
    layer = fast.blocks[1].layers[0]
    changes = {
        "in place": lambda: layer.ffn_down.weight.mul_(2),
        "another tensor": lambda: setattr(
            layer.ffn_up, "bias", torch.nn.Parameter(torch.randn_like(layer.ffn_up.bias))
        ),
        "load_state_dict": lambda: fast.load_state_dict({k: v + 0.01 for k, v in fast.state_dict().items()}),
        "data": lambda: [p.data.mul_(0.9) for p in fast.parameters()],
        "data, in training": lambda: (fast.train(), layer.norm_ffn.weight.data.mul_(1.5), fast.eval()),
    }
    for change in changes.values():
        before = run(fast, x)
        with torch.no_grad():
            change()
        eager.load_state_dict(fast.state_dict())
        assert not torch.allclose(run(fast, x), before, rtol=0, atol=1e-4)
        assert_parity(fast, eager, x)


def test_packed_weights_are_no_state():
    fast, _ = model_pair("one sub-cluster")
    keys = list(fast.state_dict())
    run(fast, features(1, 80, 64))
    assert list(fast.state_dict()) == keys
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        twin.blocks[0].layers[0].ffn_up.weight.mul_(2)
    x = features(1, 80, 64)
    assert not torch.equal(run(fast, x), run(twin, x))


def test_dropout_without_gradients_is_not_passed_over():
    model = nn.Intraformer(32, 9, 2, 1, 2, dropout=0.5)
    x = features(2, 9, 32)
    assert not torch.equal(run(model, x), run(model, x))


def test_training_goes_the_unfused_way():
    fast, eager = model_pair("ragged, anchor asks")
    x = features(2, 37, 96)
    torch.testing.assert_close(fast(x), eager(x))
    fast(x).sum().backward()
    assert all(p.grad is not None for p in fast.parameters())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c, "gradients are wanted"),
        (lambda c: {**c, "tokens": c["tokens"].double()}, "tokens is torch.float64"),
        (lambda c: {**c, "parameters": [p.bfloat16() for p in c["parameters"]]}, "a parameter is torch.bfloat16"),
        (lambda c: {**c, "tokens": c["tokens"].to("meta")}, "tokens is on meta"),
        (lambda c: {**c, "dropout": 0.1}, "dropout of 0.1 is in force"),
        (lambda c: {**c, "sizes": c["sizes"]._replace(num_heads=8)}, "a head is 4 wide"),
        (lambda c: {**c, "sizes": c["sizes"]._replace(hidden_width=40)}, "the feed-forward network is 40 wide"),
    ],
)
def test_reasons(change, reason):
    call = change(
        {
            "tokens": torch.randn(2, 4, 32),
            "valid": None,
            "parameters": [torch.nn.Parameter(torch.randn(32))],
            "sizes": encoder_block.Sizes(2, 64, "float32"),
            "dropout": 0.0,
        }
    )
    reasons = routing.not_supported_reasons("encoder_block", "cpu", *call.values())
    assert any(reason in r for r in reasons), reasons


def test_a_named_backend_is_kept_to():
    with pytest.raises(NotImplementedError, match="a head is 8 wide"):
        nn.Intraformer(32, num_layers=1, num_heads=4, backend="cpu")
    model, _ = model_pair("one sub-cluster", backend="cpu")
    with pytest.raises(NotImplementedError, match="gradients are wanted"):
        model(features(1, 80, 64))
    assert model_pair("one sub-cluster", backend="reference")[0](features(1, 80, 64)).requires_grad
