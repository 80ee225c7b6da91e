"""The fused block with compute="int8": the same integers as plain PyTorch quantized in the same way, and near to float32."""

import copy

import pytest
import torch
from cases.instruction_sets import INSTRUCTION_SETS, run_check

from intraformer_fast import native, nn, reference
from intraformer_fast.inference import predict_probability

pytestmark = pytest.mark.skipif(
    bool(native.NOT_LOADED["cpu"]), reason=f"only the reference is installed: {native.NOT_LOADED['cpu']}"
)

# embed_dim, num_neighbors, num_subclusters, num_layers, num_heads, options; one layer: a second multiplies what the first rounds
MODELS = {
    "one sub-cluster": (64, 80, 1, 1, 4, {}),
    "members ask": (128, 256, 4, 1, 4, {}),
    "ragged, anchor asks": (96, 37, 4, 1, 2, {"cross_query": "anchor"}),
    "a hidden layer of ragged groups": (32, 40, 2, 1, 2, {"ffn_dim": 1040, "share_cross_weights": True}),
}


class QuantizedLinear(torch.nn.Linear):
    group = None

    def forward(self, x):
        return reference.quantized_linear(x, self.weight, self.bias, self.group)


class Quantized(reference.Intraformer):
    """The reference, with the products in int8 that the fused block has in int8."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for block in self.blocks:
            for layer in block.layers:
                for linear in (layer.query_key_value, layer.attention_output, layer.ffn_up, layer.ffn_down):
                    linear.__class__ = QuantizedLinear
                layer.ffn_down.group = 512

    def _cross(self, *arguments):
        def attention(query, context, weight, *, valid_context):
            query = reference.quantized_linear(query, weight.mT)
            return reference.correlation_attention(
                query, context, torch.eye(len(weight), dtype=query.dtype), valid_context=valid_context
            )

        return super()._cross(*arguments[:-1], attention)


@pytest.fixture(autouse=True)
def seed():
    value = torch.seed() % 2**32
    torch.manual_seed(value)
    print(f"torch.manual_seed({value})")


def models(name):
    """The fused model in int8, the quantized reference and the reference, both in float64, with the same parameters."""
    *sizes, options = MODELS[name]
    fast = nn.Intraformer(*sizes, **options).eval()
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    fast.compute = "int8"
    twins = [kind(*sizes, **options).eval() for kind in (Quantized, reference.Intraformer)]
    for twin in twins:
        twin.load_state_dict(fast.state_dict())
    return fast, *(twin.double() for twin in twins)


def features(batch, n, width):
    return torch.nn.functional.normalize(torch.randn(batch, n, width), dim=-1)


def root_mean_square(x):
    return x.square().mean().sqrt()


def check(name, masked):
    fast, quantized, exact = models(name)
    x = features(24, fast.num_neighbors, fast.embed_dim)
    valid = torch.rand(x.shape[:2]) < 0.7 if masked else None
    with torch.inference_mode():
        found, same, float64 = fast(x, valid).double(), quantized(x.double(), valid), exact(x.double(), valid)
    error = root_mean_square(same - float64)
    # Alike to the rounding of float32, but where a number near the middle of two steps falls to the other one: few do.
    assert (found - same).abs().median() <= 1e-3 * error
    assert root_mean_square(found - same) <= 0.4 * error
    assert error <= 0.05 * float64.std()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_quantized_maths(name, masked):
    check(name, masked)


def check_this_set():
    check("ragged, anchor asks", masked=True)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set(instruction_set):
    run_check(instruction_set, __file__, "check_this_set")


def test_steps_of_rows_and_channels():
    x, weight = torch.randn(5, 40, dtype=torch.float64), torch.randn(7, 40, dtype=torch.float64)
    x[1] *= 1e6
    x[2] = 0
    found, wanted = reference.quantized_linear(x, weight), x @ weight.mT
    assert (found[2] == 0).all()
    # Each product is off by half a step of either side at most.
    largest = x.abs().amax(-1, keepdim=True) * weight.abs().amax(-1)
    assert ((found - wanted).abs() <= 40 * largest / 127 * 1.01).all()
    assert (root_mean_square(found - wanted) <= 0.02 * root_mean_square(wanted)).all()


def test_large_columns_take_nothing_from_the_steps_of_another_group():
    x, weight = torch.randn(64, 48, dtype=torch.float64), torch.randn(16, 48, dtype=torch.float64)
    x[:, :16] *= 100
    weight[:, :16] = 0
    found, grouped = reference.quantized_linear(x, weight), reference.quantized_linear(x, weight, group=16)
    assert torch.equal(reference.quantized_linear(x, weight, group=48), found)
    wanted = x @ weight.mT
    assert root_mean_square(grouped - wanted) < root_mean_square(found - wanted) / 10


def test_compute_is_no_state_and_changes_back():
    fast, *_ = models("one sub-cluster")
    x = features(2, 80, 64)
    copied, twin = copy.deepcopy(fast), nn.Intraformer(*MODELS["one sub-cluster"][:5]).eval()
    twin.load_state_dict(fast.state_dict())
    with torch.no_grad():
        int8 = fast(x)
        assert torch.equal(copied(x), int8)
        fast.compute = "float"
        plain = fast(x)
        assert torch.equal(twin(x), plain)
        assert not torch.equal(plain, int8)


def test_a_table_gives_what_its_clusters_give():
    # Without ranks the first block's projections of tables are shared elsewhere, in float32.
    model = nn.Intraformer(32, 9, 2, 2, 2, position="none").eval()
    model.compute = "int8"
    table, neighbors = features(1, 20, 32)[0], torch.randint(0, 20, (30, 9))
    with torch.inference_mode():
        assert torch.equal(model.forward_graph(table, neighbors), model(table[neighbors]))


def test_what_cannot_be_served_is_refused():
    model = nn.Intraformer(32, 9, 2, 1, 2)
    with pytest.raises(ValueError, match="compute = 'int4': expected one of 'float', 'int8'"):
        model.compute = "int4"
    model.compute = "int8"
    with pytest.raises(NotImplementedError, match="compute='int8' cannot be served: gradients are wanted"):
        model(features(1, 9, 32))
    for moved, reason in (({"dtype": torch.float64}, r"tokens is torch\.float64"), ({"device": "meta"}, "on meta")):
        with pytest.raises(NotImplementedError, match=reason), torch.no_grad():
            copy.deepcopy(model).to(**moved)(features(1, 9, 32).to(**moved))
    with pytest.raises(NotImplementedError, match="the call is being compiled"), torch.no_grad():
        torch.compile(model, backend="eager")(features(1, 9, 32))
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        nn.Intraformer(32, 9, 2, 1, 2, backend="reference").compute = "int8"
    with pytest.raises(NotImplementedError, match="a head is 8 wide"):
        nn.Intraformer(32, 9, 2, 1, 4).compute = "int8"


def test_prediction_in_int8():
    model = nn.Intraformer(32, 9, 2, 1, 2)
    table, neighbors = features(1, 50, 32)[0], torch.randint(0, 50, (50, 9))

    def predicted(**options):
        return torch.from_numpy(predict_probability(model, table, neighbors, progress=False, **options))

    plain, int8 = predicted(precision="fp32"), predicted(precision="int8")
    assert model.compute == "float"
    assert 0 < (plain - int8).abs().max() < 0.05
    model.compute = "int8"
    assert torch.equal(predicted(), int8)
    assert torch.equal(predicted(precision="fp32"), plain)
    assert model.compute == "int8"
    with pytest.raises(ValueError, match="expected one of 'auto', 'fp32', 'bf16', 'int8'"):
        predicted(precision="int4")
