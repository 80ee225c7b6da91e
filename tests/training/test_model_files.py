"""save_model and load_model: what comes back, and what bad files say."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from intraformer_fast.checkpoint import load_model, save_model, save_tensors
from intraformer_fast.errors import DataError

CONFIGS = [
    {},
    {"num_subclusters": 1, "similarity_input": True, "dropout": 0.1},
    {"position": "sinusoidal", "cross_query": "anchor", "share_cross_weights": True, "num_subclusters": 4},
    {"position": "none", "input_dim": 8, "ffn_dim": 3, "num_layers": 3},
]


@pytest.fixture
def file(new_model, tmp_path):
    """A good model file."""
    save_model(tmp_path / "model.safetensors", new_model(), {"threshold": 0.6})
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_comes_back_bit_for_bit(new_model, tmp_path, config):
    model = new_model(**config)
    settings = {"threshold": 0.625, "linking": {"rule": "intimacy", "rho": None}, "groups": ["a", "ü"]}
    save_model(tmp_path / "m.safetensors", model, settings)
    loaded, back = load_model(tmp_path / "m.safetensors")
    assert back == settings
    assert loaded.config == model.config
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    x = torch.randn(2, 16, model.input_dim)
    assert torch.equal(loaded(x), model.eval()(x))


def test_the_dtype_is_kept(new_model, tmp_path):
    save_model(tmp_path / "m.safetensors", new_model().double(), {})
    assert load_model(tmp_path / "m.safetensors")[0].head.weight.dtype == torch.float64


def test_a_loaded_model_does_not_hang_on_its_file(file, new_model):
    loaded, _ = load_model(file)
    before = loaded.head.weight.clone()
    save_model(file, new_model(seed=1), {})
    file.write_bytes(b"")
    assert torch.equal(loaded.head.weight, before)


def test_the_random_state_is_left_alone(file):
    before = torch.get_rng_state()
    load_model(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_backend_is_the_callers_choice(file):
    assert load_model(file, backend="reference")[0].backend == "reference"
    with pytest.raises(ValueError, match="backend = 'quantum'") as caught:
        load_model(file, backend="quantum")
    assert not isinstance(caught.value, DataError)


def header_of(path):
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(path, change):
    """Rewrites the library's own header in the file."""
    header, tensors = header_of(path)
    own = json.loads(header["__metadata__"]["intraformer_fast"])
    own = change(own) or own
    header["__metadata__"]["intraformer_fast"] = json.dumps(own)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def test_no_pickle_and_one_file(file):
    header, _ = header_of(file)
    own = json.loads(header["__metadata__"]["intraformer_fast"])
    assert own["kind"] == "model"
    assert own["state"]["config"]["embed_dim"] == 8
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_truncated_file_is_damaged(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        load_model(file)


FOREIGN = {
    "text": lambda path: path.write_text("epoch,loss\n1,0.5\n" * 20),
    "npz": lambda path: np.savez(path.open("wb"), a=np.zeros(3)),
    "pickle": lambda path: torch.save({"a": torch.zeros(3)}, path),
    "foreign safetensors": lambda path: save_file({"a": torch.zeros(3)}, path),
    "foreign metadata": lambda path: save_file({"a": torch.zeros(3)}, path, metadata={"format": "pt"}),
    "own key, other content": lambda path: save_file({"a": torch.zeros(3)}, path, metadata={"intraformer_fast": "[1]"}),
    "own key, no JSON": lambda path: save_file({"a": torch.zeros(3)}, path, metadata={"intraformer_fast": "{"}),
    "training checkpoint": lambda path: save_tensors(path, "checkpoint", {"a": torch.zeros(3)}, {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_in_one_sentence(tmp_path, kind):
    path = tmp_path / "foreign.safetensors"
    FOREIGN[kind](path)
    with pytest.raises(DataError, match=r"foreign\.safetensors (is|was)") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own["state"]["config"].update(embed_dim=16),
        lambda own: own["state"]["config"].update(embed_dim=2**40),
        lambda own: own["state"]["config"].update(num_layers=2),
        lambda own: own["state"]["config"].update(num_layers=10**9),
        lambda own: own["state"]["config"].update(num_subclusters=10**9),
        lambda own: own["state"]["config"].update(num_layers="many"),
        lambda own: own["state"]["config"].update(num_heads=3),
        lambda own: own["state"]["config"].update(similarity_input=True),
        lambda own: own["state"]["config"].update(unheard_of=1),
        lambda own: own["state"]["config"].pop("num_layers"),
        lambda own: own["state"].pop("config"),
        lambda own: own["state"].pop("settings"),
        lambda own: own.update(state=None),
    ],
)
def test_a_header_that_does_not_fit_the_weights_is_damage(file, change):
    with_header(file, lambda own: change(own) and None)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged: its weights do not fit"):
        load_model(file)


def test_a_newer_format_asks_for_an_upgrade(file):
    with_header(file, lambda own: own.update(format=2, library="9.0.0"))
    with pytest.raises(DataError, match=r"written by intraformer-fast 9\.0\.0, newer than this .*upgrade"):
        load_model(file)


def test_a_missing_file_and_a_folder_are_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors does not exist"):
        load_model(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_model(tmp_path)


@pytest.mark.parametrize("settings", [{"threshold": float("nan")}, {"model": object()}])
def test_settings_that_json_cannot_hold_are_refused_before_writing(file, new_model, settings):
    before = file.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        save_model(file, new_model(seed=1), settings)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_file(file, new_model, monkeypatch):
    before = file.read_bytes()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(PermissionError):
        save_model(file, new_model(seed=1), {})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]
