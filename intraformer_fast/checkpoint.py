"""Files of models and of unfinished trainings: one safetensors file each, all that is no tensor as JSON in its header.

One file is replaced by one rename, so that weights and settings never come from two moments. Nothing is ever unpickled.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from intraformer_fast import __version__, nn
from intraformer_fast.errors import DataError
from intraformer_fast.files import atomic_path

FORMAT_VERSION = 1
HEADER = "intraformer_fast"

StrPath = str | os.PathLike[str]


def save_model(path: StrPath, model: nn.Intraformer, settings: dict[str, Any]) -> None:
    """Write a model: its weights, its constructor arguments and the caller's settings, in one safetensors file.

    Args:
        path: written atomically; what stood there is replaced.
        model: on any device, in any dtype.
        settings: whatever belongs to the model and JSON can hold (thresholds, the linking rule, how it was trained).

    Raises:
        TypeError, ValueError: `settings` holds what JSON cannot, such as NaN.
        OSError: the file cannot be written; what stood there before is untouched.
    """
    save_tensors(path, "model", model.state_dict(), {"config": model.config, "settings": settings})


def load_model(
    path: StrPath, *, backend: str = "auto", device: str | torch.device = "cpu"
) -> tuple[nn.Intraformer, dict[str, Any]]:
    """Read what `save_model` wrote.

    Args:
        backend: which implementation serves the attentions, as in `Intraformer`; it is no property of the file.
        device: where the weights go.

    Returns:
        (model in evaluation mode, settings).

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is damaged, no model of this library, from a newer version of it, or its weights and its
            constructor arguments do not belong together.
        ValueError, NotImplementedError: `backend` does not exist or cannot serve the model.
    """
    tensors, state = load_tensors(path, "model", device)
    # On "meta" nothing has storage, so that absurd sizes in a damaged header are never allocated.
    with torch.device("meta"):
        try:
            config, settings = dict(state["config"]), dict(state["settings"])
            layers = config["num_layers"] * (1 if config["share_cross_weights"] else config["num_subclusters"])
            if layers > len(tensors):
                raise ValueError(f"{layers} layers cannot have {len(tensors)} tensors")
            nn.Intraformer(**config).load_state_dict(tensors, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{path} is damaged: its weights do not fit the model its header describes; save the model again"
            ) from error
        model = nn.Intraformer(**config, backend=backend)
    model.load_state_dict(tensors, assign=True)
    return model.eval(), settings


def save_tensors(path: StrPath, kind: str, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and JSON state as one file of this library, atomically. `kind` tells such files apart.

    Raises:
        TypeError, ValueError: `state` holds what JSON cannot.
        OSError: the file cannot be written; what stood there before is untouched.
    """
    header = {"kind": kind, "format": FORMAT_VERSION, "library": __version__, "state": state}
    metadata = {HEADER: json.dumps(header, allow_nan=False)}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            # safetensors tells of a full disk through its own exception.
            raise OSError(f"cannot write {path}: {error}") from error


def load_tensors(
    path: StrPath, kind: str, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: (tensors on `device`, state).

    Raises:
        FileNotFoundError: there is no such file. DataError: it is damaged, or no file of this library of this kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file: expected a {kind} file of intraformer-fast")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get(HEADER, "{}"))
            # Cloned, since a file aligns its tensors less than torch does, and products round by alignment.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is damaged or no safetensors file ({error}): write it again") from error
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise DataError(f"{path} was not written by intraformer-fast: expected a {kind} file of it")
    if header["format"] > FORMAT_VERSION:
        raise DataError(
            f"{path} was written by intraformer-fast {header['library']}, newer than this {__version__}: "
            "upgrade to read it"
        )
    if header["kind"] != kind:
        raise DataError(f"{path} is a {header['kind']} file: expected a {kind} file")
    return tensors, header["state"]
