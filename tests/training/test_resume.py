"""A training that is stopped, by whatever, goes on as if it had not been; and never takes up what is not its own."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases.disks import small_disk

from intraformer_fast.checkpoint import load_tensors, save_model, save_tensors
from intraformer_fast.errors import DataError
from intraformer_fast.training import CollapseWarning, TrainingConfig, train
from intraformer_fast.training.monitoring import EdgeMonitor

CONFIG = TrainingConfig(epochs=3, batch_size=16, learning_rate=3e-3, precision="fp32", checkpoint_every=4)
FILES = ["checkpoint.safetensors", "history.json", "model.safetensors"]


def run(model, samples, folder, config=CONFIG, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        return train(
            model,
            samples.features,
            samples.labels,
            samples.neighbors,
            config=config,
            output_dir=folder,
            **{"progress": False, **options},
        )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def step_of(folder):
    return load_tensors(folder / "checkpoint.safetensors", "checkpoint")[1]["step"]


class Stop(Exception):
    """Ends a training in the middle of a step, as a bug or a lack of memory would."""


@pytest.fixture(autouse=True)
def listening_to_ctrl_c():
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stop_in_step(monkeypatch):
    """`stop_in_step(10, action)` does `action` within the optimizer of the tenth step."""

    def arrange(count, action):
        genuine, calls = torch.optim.AdamW.step, []

        def step(self, *args):
            genuine(self, *args)
            calls.append(1)
            if len(calls) == count:
                action()

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
        return monkeypatch.undo

    return arrange


def crash():
    raise Stop


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def unbroken(samples, held_out, new_model, tmp_path):
    """The files of a training that nothing stopped."""
    run(new_model(dropout=0.1), samples, tmp_path / "unbroken", validation=held_out.as_validation())
    return contents(tmp_path / "unbroken")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The report and the folder of killed_training.py."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed_training.py"), folder],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.mark.parametrize(
    ("how", "stopped"), [("random moments", -signal.SIGKILL), ("around renames", -signal.SIGKILL), ("Ctrl-C", 3)]
)
def test_a_training_killed_again_and_again_equals_an_unbroken_one_bit_for_bit(killed, how, stopped):
    report, folder = killed
    assert report["unbroken"] == [0, 0]
    assert report[how][-1] == 0
    assert set(report[how][:-1]) == {stopped}
    assert len(report[how]) > 2
    assert contents(folder / how) == contents(folder / "unbroken")
    assert names(folder / how) == FILES


def test_a_crash_in_the_middle_of_a_step_costs_the_steps_since_the_checkpoint(
    samples, held_out, new_model, tmp_path, stop_in_step, unbroken
):
    undo = stop_in_step(11, crash)
    with pytest.raises(Stop):
        run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation())
    undo()
    assert step_of(tmp_path / "a") == 8
    model = new_model(seed=9, dropout=0.1)
    result = run(model, samples, tmp_path / "a", validation=held_out.as_validation())
    assert contents(tmp_path / "a") == unbroken
    assert json.loads(unbroken["history.json"]) == result.history


def test_ctrl_c_within_a_step_waits_for_it_and_writes_a_checkpoint(
    samples, held_out, new_model, tmp_path, stop_in_step, unbroken, capfd
):
    undo = stop_in_step(9, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation(), progress=True)
    undo()
    # No multiple of checkpoint_every and no end of an epoch.
    assert step_of(tmp_path / "a") == 9
    # The bar is closed: its last line is ended.
    assert capfd.readouterr().err.endswith("\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation())
    assert contents(tmp_path / "a") == unbroken


def test_ctrl_c_while_an_epoch_is_scored_stops_at_once_and_scores_it_again(
    samples, held_out, new_model, tmp_path, monkeypatch, unbroken
):
    with monkeypatch.context() as patched:
        patched.setattr(EdgeMonitor, "scores", lambda *_: press_ctrl_c())
        with pytest.raises(KeyboardInterrupt):
            run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation())
    assert step_of(tmp_path / "a") == 6
    assert names(tmp_path / "a") == ["checkpoint.safetensors"]
    run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation())
    assert contents(tmp_path / "a") == unbroken


def test_an_interrupt_that_cannot_wait_leaves_the_last_checkpoint(
    samples, held_out, new_model, tmp_path, stop_in_step, unbroken
):
    """Where the program has its own handler, which raises within a step, that half step must not be saved."""

    def own_handler(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, own_handler)
    try:
        undo = stop_in_step(5, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation())
        undo()
        assert signal.getsignal(signal.SIGINT) is own_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert step_of(tmp_path / "a") == 4
    run(new_model(dropout=0.1), samples, tmp_path / "a", validation=held_out.as_validation())
    assert contents(tmp_path / "a") == unbroken


def test_ctrl_c_without_an_output_folder_just_stops(samples, new_model, stop_in_step):
    stop_in_step(2, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(new_model(), samples, None)


def test_bf16_resumes_bit_for_bit(samples, new_model, tmp_path, stop_in_step):
    config = replace(CONFIG, precision="bf16")
    run(new_model(), samples, tmp_path / "unbroken", config)
    undo = stop_in_step(14, crash)
    with pytest.raises(Stop):
        run(new_model(), samples, tmp_path / "a", config)
    undo()
    run(new_model(), samples, tmp_path / "a", config)
    assert contents(tmp_path / "a") == contents(tmp_path / "unbroken")


def test_a_finished_training_returns_at_once(samples, held_out, new_model, tmp_path, stop_in_step):
    first_model, again = new_model(), new_model(seed=5)
    first = run(first_model, samples, tmp_path, validation=held_out.as_validation())
    before = contents(tmp_path)
    stop_in_step(1, crash)
    second = run(again, samples, tmp_path, validation=held_out.as_validation())
    assert second == first
    assert all(torch.equal(*pair) for pair in zip(first_model.parameters(), again.parameters(), strict=True))
    assert not again.training
    assert contents(tmp_path) == before


def test_how_often_checkpoints_are_written_changes_nothing(samples, new_model, tmp_path):
    for every in (1, 100):
        run(new_model(), samples, tmp_path / str(every), replace(CONFIG, checkpoint_every=every))
    a, b = (load_tensors(tmp_path / name / "checkpoint.safetensors", "checkpoint") for name in ("1", "100"))
    assert a[1] == b[1]
    assert all(torch.equal(tensor, b[0][name]) for name, tensor in a[0].items())


def test_resume_false_starts_again(samples, new_model, tmp_path, stop_in_step):
    config = replace(CONFIG, seed=3)
    run(new_model(), samples, tmp_path / "a", config)
    undo = stop_in_step(1, crash)
    with pytest.raises(Stop):
        run(new_model(), samples, tmp_path / "a", resume=False)
    undo()
    # Killed before its first checkpoint, it left none, least of all the old one.
    assert names(tmp_path / "a") == ["history.json", "model.safetensors"]
    run(new_model(), samples, tmp_path / "a")
    run(new_model(), samples, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_killed_writes_left_behind_is_removed_and_nothing_else(samples, new_model, tmp_path):
    for name in (".checkpoint-ab12cd34.safetensors", ".model-x.safetensors", ".history-y.json"):
        (tmp_path / name).write_bytes(b"half a file")
    (tmp_path / "notes.json").write_text("{}")
    run(new_model(), samples, tmp_path)
    assert names(tmp_path) == sorted([*FILES, "notes.json"])


CHANGES = {
    "config learning_rate was 0.003, is 0.1": {"config": replace(CONFIG, learning_rate=0.1)},
    "config epochs was 3, is 4": {"config": replace(CONFIG, epochs=4)},
    "config precision was 'fp32', is 'bf16'": {"config": replace(CONFIG, precision="bf16")},
    "model ffn_dim was 32, is 24": {"model": {"ffn_dim": 24}},
    "training set contents was": {"labels": lambda labels: np.roll(labels, 1)},
    "training set neighbors was 16, is 12": {"neighbors": lambda neighbors: neighbors[:, :12]},
    "validation set was None, is": {"validated": True},
}


@pytest.mark.parametrize("words", CHANGES)
def test_another_trainings_checkpoint_is_refused_and_kept(samples, held_out, new_model, tmp_path, words):
    run(new_model(), samples, tmp_path)
    before = contents(tmp_path)
    change = dict(CHANGES[words])
    model = new_model(**change.pop("model", {}))
    validation = held_out.as_validation() if change.pop("validated", False) else None
    config = change.pop("config", CONFIG)
    changed = replace(samples, **{name: alter(getattr(samples, name)) for name, alter in change.items()})
    with pytest.raises(ValueError, match="belongs to another training") as caught:
        run(model, changed, tmp_path, config, validation=validation)
    assert words in str(caught.value)
    assert "choose another output_dir, or resume=False" in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path, _: path.write_bytes(path.read_bytes()[:-10]),
        lambda path, _: path.write_bytes(b""),
        lambda path, _: path.write_text("no checkpoint"),
        lambda path, model: save_model(path, model, {}),
        lambda path, _: save_tensors(path, "checkpoint", {}, {}),
        lambda path, _: path.write_bytes(path.read_bytes().replace(b"optimizer/head.bias", b"optimizer/tail.bias")),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_lost(samples, new_model, tmp_path, damage):
    run(new_model(), samples, tmp_path)
    damage(tmp_path / "checkpoint.safetensors", new_model())
    before = contents(tmp_path)
    model = new_model()
    with pytest.raises(DataError, match=r"checkpoint\.safetensors (is|was) .*resume=False"):
        run(model, samples, tmp_path)
    assert contents(tmp_path) == before
    run(model, samples, tmp_path, resume=False)
    assert names(tmp_path) == FILES


def test_a_folder_that_cannot_be_made_is_refused_before_training(samples, new_model, tmp_path, stop_in_step):
    (tmp_path / "file").write_text("")
    stop_in_step(1, crash)
    with pytest.raises(OSError, match=r"cannot write to the output folder .*choose another output_dir"):
        run(new_model(), samples, tmp_path / "file" / "out")


def test_a_folder_that_cannot_be_written_is_refused_before_training(samples, new_model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root may write anywhere, so that the refusal itself is put in place.
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"cannot write to the output folder .* \(Permission denied\)"):
        run(new_model(), samples, tmp_path)


def test_a_disk_that_fills_up_says_so_and_keeps_the_last_checkpoint(samples, new_model, tmp_path):
    run(new_model(), samples, tmp_path / "unbroken")
    disk = tmp_path / "disk"
    disk.mkdir()
    # Room for a checkpoint and the model, not for a second checkpoint beside them.
    size = sum(len(content) for content in contents(tmp_path / "unbroken").values()) * 5 // 4
    with small_disk(disk, size):
        with pytest.raises(
            OSError, match=r"cannot write to .*No space left.* the last checkpoint is untouched"
        ) as caught:
            run(new_model(), samples, disk)
        assert "\n" not in str(caught.value)
        assert step_of(disk) > 0
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        run(new_model(), samples, disk)
        assert contents(disk) == contents(tmp_path / "unbroken")


def test_a_disk_that_is_full_from_the_start_says_that_there_is_no_checkpoint(samples, new_model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("intraformer_fast.checkpoint.save_file", refuse)
    with pytest.raises(OSError, match="there is no checkpoint yet"):
        run(new_model(), samples, tmp_path)
    assert names(tmp_path) == []
