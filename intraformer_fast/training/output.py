"""The folder of a training: what is written to it, and what is read back to go on."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from intraformer_fast import nn
from intraformer_fast.checkpoint import load_tensors, save_model, save_tensors
from intraformer_fast.errors import DataError
from intraformer_fast.files import write_json

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
HISTORY = "history.json"

WAY_OUT = "choose another output_dir, or resume=False to start again in this one"


class OutputFolder:
    """The folder: made if need be, tried for writing, and cleared of what killed trainings left unfinished.

    Args:
        path: of the folder.
        resume: whether a checkpoint in it counts. False removes it.
        reads_only: whether another process prepares it and writes to it.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, *, resume: bool, reads_only: bool = False) -> None:
        self.path = path
        self.checkpoint = path / CHECKPOINT
        if reads_only:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
            for name in (CHECKPOINT, MODEL, HISTORY):
                stem, suffix = os.path.splitext(name)
                for leftover in path.glob(f".{stem}-*{suffix}"):
                    leftover.unlink()
            if not resume:
                self.checkpoint.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write to the output folder {path} ({error.strerror}): choose another output_dir"
            ) from error

    def save_checkpoint(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the checkpoint. Raises OSError; the old one is then still there."""
        with self._explained():
            save_tensors(self.checkpoint, "checkpoint", tensors, state)

    def save_model(self, model: nn.Intraformer, settings: dict[str, Any]) -> None:
        """Replace the best model. Raises OSError; the old one is then still there."""
        with self._explained():
            save_model(self.path / MODEL, model, settings)

    def save_history(self, history: list[dict[str, Any]]) -> None:
        """Replace the history. Raises OSError; the old one is then still there."""
        with self._explained():
            write_json(self.path / HISTORY, history)

    def load_checkpoint(self, identity: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint, (tensors, state), whose state holds this `identity`; None where there is none.

        Raises:
            DataError: it is damaged. ValueError: it belongs to another training; the message says how that differs.
        """
        if not self.checkpoint.exists():
            return None
        try:
            tensors, state = load_tensors(self.checkpoint, "checkpoint")
        except DataError as error:
            raise DataError(f"{error}; to train all the same, {WAY_OUT}") from error
        differing = list(_differences(state["identity"], identity))
        if differing:
            raise ValueError(f"{self.checkpoint} belongs to another training ({'; '.join(differing)}): {WAY_OUT}")
        return tensors, state

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = "the last checkpoint is untouched" if self.checkpoint.exists() else "there is no checkpoint yet"
            raise OSError(
                error.errno,
                f"cannot write to {self.path} ({error.strerror or error}), {kept}: "
                "make room or repair the folder, and train again to go on",
            ) from error


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Where two nested dicts differ, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key), here.get(key), f"{name} {key}".strip())
    elif there != here:
        yield f"{name} was {there!r}, is {here!r}"
