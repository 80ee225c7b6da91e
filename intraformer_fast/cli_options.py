"""What the commands of `cli.py` share: their common options, sizes, and how a result is shown."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

FeaturesArgument = Annotated[
    Path, typer.Argument(help="Features: .npy, .bin (with --dim) or .parquet.", metavar="FEATURES")
]
LabelsArgument = Annotated[Path, typer.Argument(help="Identities: .npy or .meta.", metavar="LABELS")]
DimOption = Annotated[int | None, typer.Option(help="Width of the rows of a .bin file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BackendOption = Annotated[
    str, typer.Option(help="What serves the model's ops: auto, reference (plain PyTorch), cpu, triton or cuda.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


MemoryOption = Annotated[
    str | None,
    typer.Option(help="With --work: what a process may take beside mapped files, such as 8GiB; no limit by default."),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for sets larger than memory: resumed by the same command, shared by torchrun's processes."
    ),
]


def size_in_bytes(text: str) -> int:
    """Bytes of a size such as 8GiB, 500MB or 4096."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number, unit = re.fullmatch(r"([0-9]*)(.*)", text.strip().upper(), re.DOTALL).groups()  # type: ignore[union-attr]
    if not number or unit.strip() not in units:
        raise ValueError(
            f"memory = {text!r}: expected a whole number of bytes, or of KB, MB, GB, KiB, MiB or GiB, such as 8GiB"
        )
    return int(number) * units[unit.strip()]


def example(command: str) -> str:
    """The last line of a command's help."""
    return f"Example: intraformer-fast {command}"


def show(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result on standard output, for machines or for people."""
    typer.echo(json.dumps(result, allow_nan=False) if as_json else text)
