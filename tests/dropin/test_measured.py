"""Choices by measurement: when, what is kept, and that a slower native op is left for the reference."""

import json

import pytest
import torch

import intraformer_fast as ifast
from intraformer_fast import native
from intraformer_fast.ops import block_attention, measured, routing

pytestmark = pytest.mark.skipif(bool(native.NOT_LOADED["cpu"]), reason="only the reference is installed")

Q = torch.randn(2, 2, 6, 16)


@pytest.fixture(autouse=True)
def anew(monkeypatch, tmp_path):
    """Nothing is known, measuring is on, and its file is this test's own."""
    monkeypatch.setenv("INTRAFORMER_CACHE", str(tmp_path))
    monkeypatch.setenv("INTRAFORMER_AUTOTUNE", "1")
    monkeypatch.setattr(routing, "_CHOICES", {})
    measured._known.cache_clear()
    yield
    measured._known.cache_clear()


@pytest.fixture
def slow_native(monkeypatch):
    """Times that are told, not taken: the native op takes twice as long."""
    timed = []

    def seconds(run):
        timed.append(run())
        return {0: 2.0, 1: 1.0}[len(timed) % 2 ^ 1]

    monkeypatch.setattr(measured, "_seconds", seconds)
    return timed


def served(*arguments):
    return routing.remembered("block_attention", arguments, "auto", ())


def test_the_faster_one_is_measured_once_and_kept(slow_native, tmp_path):
    for _ in range(3):
        assert served(Q, Q, Q, None, 2) == "reference"
    assert len(slow_native) == 2
    torch.testing.assert_close(*slow_native)
    (kept,) = json.loads((tmp_path / "backends.json").read_text()).values()
    assert kept == "reference"
    routing._CHOICES.clear()
    measured._known.cache_clear()  # as another process
    assert served(torch.randn(2, 2, 5, 16), Q[:, :, :5], Q[:, :, :5], None, 2) == "reference"  # of the same kind
    assert len(slow_native) == 2
    served(torch.randn(2, 2, 99, 16), *[torch.randn(2, 2, 99, 16)] * 2, None, 2)
    assert len(slow_native) == 4


def test_gradients_are_measured_apart(slow_native):
    served(Q, Q, Q)
    q = Q.clone().requires_grad_()
    served(q, Q, Q)
    assert len(slow_native) == 4
    (ours,), (theirs,) = slow_native[2:]
    torch.testing.assert_close(ours, theirs)
    assert q.grad is None


def test_the_table_stands_where_the_difference_is_small(monkeypatch):
    times = iter([1.0, 0.97])
    monkeypatch.setattr(measured, "_seconds", lambda run: next(times))
    assert served(Q, Q, Q) == "cpu"


def test_whole_blocks(slow_native):
    model = ifast.nn.Intraformer(32, 12, 1, 1, 2).eval()
    layer = ifast.nn.FusedEncoderLayer(32, 2, 64, batch_first=True).eval()
    x = torch.randn(2, 12, 32)
    with torch.inference_mode():
        assert "encoder_block(float32[2, 12, 32]): reference" in str(ifast.explain(model, x))
        assert "encoder_block(float32[2, 12, 32]): reference" in str(ifast.explain(layer, x))


@pytest.mark.parametrize(
    "case", ["off", "not asked for", "named", "deterministic", "compiled", "subclass", "no numbers"]
)
def test_when_nothing_is_measured(case, slow_native, monkeypatch):
    arguments, backend = [Q, Q, Q], "auto"
    if case == "off":
        monkeypatch.setenv("INTRAFORMER_AUTOTUNE", "0")
    if case == "not asked for":
        monkeypatch.delenv("INTRAFORMER_AUTOTUNE")
        monkeypatch.setattr(measured, "_instruction_set", lambda: "avx512")
    if case == "named":
        backend = "cpu"
    if case == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    if case == "subclass":
        arguments = [Q.as_subclass(Marked)] * 3
    if case == "no numbers":
        arguments = [Q[:0]] * 3
    torch.use_deterministic_algorithms(case == "deterministic")
    try:
        assert routing.select("block_attention", *arguments, backend=backend) is block_attention
    finally:
        torch.use_deterministic_algorithms(False)
    assert not slow_native


def test_by_default_where_the_table_was_not_made(slow_native, monkeypatch):
    monkeypatch.delenv("INTRAFORMER_AUTOTUNE")
    monkeypatch.setattr(measured, "_instruction_set", lambda: "generic")
    assert served(Q, Q, Q) == "reference"


def test_a_file_that_is_damaged_or_cannot_be_written(slow_native, monkeypatch, tmp_path, caplog):
    (tmp_path / "backends.json").write_text("{")
    assert served(Q, Q, Q) == "reference"
    assert json.loads((tmp_path / "backends.json").read_text())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTRAFORMER_CACHE", str(tmp_path / "file"))
    served(*[torch.randn(2, 2, 99, 16)] * 3)
    assert "cannot be written" in caplog.text


def test_tables_are_measured_as_the_model_asks_for_them(slow_native):
    table, neighbors = torch.randn(9, 2, 16), torch.randint(0, 9, (3, 6))
    assert routing.remembered("gather_block_attention", (table, table, table, neighbors), "auto", ()) == "reference"
    torch.testing.assert_close(*slow_native)


@pytest.mark.parametrize("instruction_set", ["avx512", "avx512_vnni", "avx512_bf16"])
def test_by_default_nothing_is_measured_with_avx512(instruction_set, slow_native, monkeypatch):
    monkeypatch.delenv("INTRAFORMER_AUTOTUNE")
    monkeypatch.setattr(measured, "_instruction_set", lambda: instruction_set)
    assert served(Q, Q, Q) == "cpu"


def test_bad_setting(monkeypatch):
    monkeypatch.setenv("INTRAFORMER_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="INTRAFORMER_AUTOTUNE = 'yes': expected 0 or 1"):
        served(Q, Q, Q)


class Marked(torch.Tensor):
    """A subclass."""
