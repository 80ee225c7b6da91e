"""What `intraformer-fast bench scale` does: one process a size, then the growth fitted and drawn."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intraformer_fast import charts, pipeline
from intraformer_fast.bench import results
from intraformer_fast.checkpoint import save_model
from intraformer_fast.data import synthetic
from intraformer_fast.data.synthetic import MEAN_SIZE
from intraformer_fast.files import atomic_path
from intraformer_fast.training import CollapseWarning, TrainingConfig
from intraformer_fast.training.output import MODEL as MODEL_FILE

SIZES = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
QUICK_SIZES = (1000, 2000)
BEYOND = (1_000_000, 5_000_000)
"""Sizes that a table names: extrapolated, and labelled so, where they were not run."""

MODEL = {
    "embed_dim": 64,
    "num_neighbors": 32,
    "num_subclusters": 2,
    "num_layers": 2,
    "num_heads": 4,
    "input_dim": 64,
    "similarity_input": True,
}
TRAINED_ON: dict[str, Any] = {"samples": 4000, "mean_size": 20}
"""Fewer samples of an identity than neighbours, so that there is something to tell apart."""
LARGE = 100_000
"""Samples from which the growth is fitted once more: all smaller sets may have been searched exactly."""

STAGES = ("neighbors", "prediction", "linking")


@dataclass(frozen=True)
class ScaleReport:
    """A finished run: its stamp, and a row a size, see `child.main`."""

    stamp: results.Stamp
    rows: Sequence[dict[str, Any]]
    exit_code: int = 0

    def exponent(self, of: str = "seconds", least: int = 0) -> float | None:
        """b of the least-squares fit of log(time) = a + b log(samples) from `least` samples on; None with fewer than two sizes."""
        rows = [row for row in self.rows if row["samples"] >= least]
        if len(rows) < 2:
            return None
        x, y = (np.log([max(row[name], 1e-9) for row in rows]) for name in ("samples", of))
        return float(np.polyfit(x, y, 1)[0])

    def extrapolated(self) -> dict[int, float]:
        """Seconds at the sizes of `BEYOND` that are larger than any that ran: the last time, grown by the exponent."""
        exponent, last = self.exponent(), self.rows[-1]
        if exponent is None:
            return {}
        return {n: last["seconds"] * (n / last["samples"]) ** exponent for n in BEYOND if n > last["samples"]}

    def text(self) -> str:
        """A table for a terminal."""
        head = (
            f"{'samples':>10}{'index':>7}{'recall':>8}{'k-NN s':>9}{'model s':>9}{'link s':>8}{'total s':>9}{'samples/s':>11}"
            f"{'own MiB':>9}{'RSS MiB':>9}{'F_P':>7}"
        )
        lines = [
            f"{r['samples']:>10,}{r['index']:>7}{r['recall']:>8.3f}{r['neighbors']:>9.1f}{r['prediction']:>9.1f}{r['linking']:>8.2f}"
            f"{r['seconds']:>9.1f}{r['samples'] / r['seconds']:>11,.0f}{r['anonymous_bytes'] / 2**20:>9.0f}"
            f"{r['resident_bytes'] / 2**20:>9.0f}{100 * r['pairwise_f']:>7.1f}"
            for r in self.rows
        ]
        ends = [f"{n:>10,}  about {s:,.0f} s: extrapolated, not run" for n, s in self.extrapolated().items()]
        for least in (0, LARGE):
            if (exponent := self.exponent(least=least)) is not None:
                stages = ", ".join(f"{stage} {self.exponent(stage, least):.2f}" for stage in STAGES)
                ends.append(
                    f"time grows as N^{exponent:.2f}{f' from {least:,} samples on' if least else ''} ({stages})"
                )
        ends.append(f"{self.stamp.machine}, {self.rows[0]['threads']} threads, torch {self.stamp.torch}")
        return "\n".join([head, *lines, *ends])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stamp": vars(self.stamp),
            "rows": list(self.rows),
            "exponent": self.exponent(),
            "extrapolated": self.extrapolated(),
        }

    def write(self, folder: Path) -> None:
        """Write `scale.csv`, `scale.txt` and `scale.png` into `folder`, all or none of them.

        Raises:
            OSError: the folder cannot be written. MissingDependencyError: matplotlib is not installed.
        """
        table = io.StringIO()
        writer = csv.DictWriter(table, [*self.rows[0], "machine", "commit"], lineterminator="\n")
        writer.writeheader()
        writer.writerows([{**row, "machine": self.stamp.machine, "commit": self.stamp.commit} for row in self.rows])
        contents = {
            "scale.csv": table.getvalue().encode(),
            "scale.txt": (self.text() + "\n").encode(),
            "scale.png": charts.growth(self.rows, STAGES, self.extrapolated()),
        }
        with contextlib.ExitStack() as files:
            for name, content in contents.items():
                files.enter_context(atomic_path(folder / name)).write_bytes(content)


def run_scale(
    *,
    most: int | None,
    threads: int | None,
    quick: bool,
    mean_size: float | None = None,
    cascade: float = 0.0,
    say: Callable[[str], None],
) -> ScaleReport:
    """Train a small model on synthetic data, then cluster sets of growing size, each in a process of its own.

    Args:
        most: samples of the largest set; all of `SIZES` by default.
        threads: of torch and faiss in those processes; their own choice by default.
        quick: two small sets.
        mean_size: of an identity, in samples; that of `synthetic`, the paper's, by default. With fewer than the 32 neighbours the
            nearest of others' samples have to be found too, whose features are noise to each other: recall then takes more
            lists, and the time grows faster.
        cascade: see `nn.cascade`.
        say: is told what happens.

    Raises:
        ValueError: `most` is below the smallest size. RuntimeError: a clustering failed; its error is above.
    """
    sizes = [n for n in (QUICK_SIZES if quick else SIZES) if most is None or n <= most]
    if not sizes:
        raise ValueError(f"samples = {most}: expected at least {(QUICK_SIZES if quick else SIZES)[0]}")
    mean_size = MEAN_SIZE if mean_size is None else mean_size
    stamp = results.stamp(torch.device("cpu"), 0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="intraformer-scale-") as scratch:
        known = synthetic(**TRAINED_ON, dim=MODEL["input_dim"], seed=0)
        say(f"training on {len(known):,} samples of other identities")
        data = pipeline.prepare(known.features, known.labels, MODEL["num_neighbors"])
        config = TrainingConfig.from_preset("small", epochs=1 if quick else 3, batch_size=64, fairness_weight=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # said below
            fitted = pipeline.fit(data, MODEL, config, Path(scratch) / "trained", progress=False)
        if fitted.training.collapse:
            say(f"its training warns: {fitted.training.collapse}")
        # The best of the rules that link from kept edges, in memory that does not grow with what was not kept.
        linking = next(tried.linking for tried in fitted.tried if tried.linking.rule == "intimacy")
        path = Path(scratch) / "trained" / MODEL_FILE
        save_model(path, fitted.model, {"linking": linking.to_dict()})
        for samples in sizes:
            say(f"{samples:,} samples")
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                (Path(folder) / "model").symlink_to(Path(scratch) / "trained")
                rows.append(_one(Path(folder), samples, mean_size, cascade, threads))
    return ScaleReport(stamp, rows)


def _one(folder: Path, samples: int, mean_size: float, cascade: float, threads: int | None) -> dict[str, Any]:
    arguments = [str(folder), str(samples), str(mean_size), str(cascade)]
    command = [sys.executable, "-m", "intraformer_fast.bench.scale.child", *arguments]
    chosen = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **chosen})
    if done.returncode:
        raise RuntimeError(f"clustering {samples:,} samples failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
