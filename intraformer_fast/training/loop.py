"""The training loop, its checkpoints, and how it goes on after being stopped at any moment."""

import math
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from intraformer_fast import nn
from intraformer_fast.clusters import Array, LabeledClusters
from intraformer_fast.distributed import ALONE, Ranks
from intraformer_fast.errors import DataError
from intraformer_fast.precision import autocast, float32_products_by_onednn, full_precision, resolve_precision
from intraformer_fast.training.config import TrainingConfig
from intraformer_fast.training.interrupts import StepGuard
from intraformer_fast.training.monitoring import CollapseWarning, EdgeMonitor, collapse_reason
from intraformer_fast.training.output import WAY_OUT, OutputFolder

# Clusters of the training set that are watched for collapse where there is no validation set.
WATCHED_CLUSTERS = 1024
# Steps between two looks at the loss on a GPU, each of which waits for the device; on the CPU every step is looked at.
LOOK_EVERY = 20


@dataclass(frozen=True)
class ValidationSet:
    """Clusters that a training is judged by and never trained on.

    Attributes:
        features: [N, d], floating point, L2-normalised; may be memory-mapped.
        labels: int64 [N], identities, at least 0.
        neighbors: int64 [N, n], the sample itself first; -1 is padding.
        rows: int64 [R], the samples whose clusters are scored: those of identities held out of training. Their
            neighbours may be anyone.
    """

    features: Array
    labels: Array
    neighbors: Array
    rows: Array


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        history: one dict an epoch, JSON-able. `epoch` (from 1), `step` (steps done), `learning_rate` (of the last step);
            `loss`, `fmi`, `bce`, `fairness`, `purity`: means over the epoch's steps of the `LossTerms`; `scored_on`:
            "validation", or "training" without a validation set; the fields of `EdgeScores` on those clusters;
            `collapse`: a sentence where the epoch looks like a collapse, else None.
        best_epoch: the epoch whose weights were kept: that of the highest validation `f1`, the last without validation.
        output_dir: where the files are; None where none were written.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    output_dir: Path | None

    @property
    def collapse(self) -> str | None:
        """The sentence of the last epoch that looks like a collapse; None where none does."""
        return next((epoch["collapse"] for epoch in reversed(self.history) if epoch.get("collapse")), None)


def train(
    model: nn.Intraformer,
    features: Array,
    labels: Array,
    neighbors: Array,
    *,
    config: TrainingConfig,
    validation: ValidationSet | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> TrainingResult:
    """Train a model in place; afterwards it holds its best weights and is in evaluation mode.

    Several processes share every batch and the validation clusters, and average their gradients (DistributedDataParallel). The loss
    is that of the whole batch on each of them: history and weights are those of one process up to rounding, and the same on all.
    Dropout is drawn anew for each process and step.

    With `output_dir` the training can be stopped at any moment, even killed, and the same call goes on from the last
    checkpoint: weights and history come out bit for bit as without the stop (on the same device and number of threads).
    Ctrl-C waits for the step under way, writes a checkpoint and raises KeyboardInterrupt. A finished training returns at
    once. The folder holds, each replaced in one piece,

        checkpoint.safetensors   the whole state of the training
        model.safetensors        the best weights so far, for `load_model`; its settings are `training` and `epoch`
        history.json             the history so far

    The state of torch's random generators is the caller's again afterwards.

    Args:
        model: on the device to train on. Its weights are where a training starts, unless a checkpoint is resumed.
        features: [N, d], floating point, L2-normalised. May be memory-mapped: rows are read by the batch.
        labels: int64 [N], the identity of every sample, at least 0.
        neighbors: int64 [N, n], the sample itself first, similarity falling; -1 is padding. Every row is a training
            cluster.
        config: how to train.
        validation: what the best epoch is chosen by. None keeps the last.
        output_dir: folder of the files, made if need be. None writes nothing.
        resume: whether to go on from a checkpoint in `output_dir`. False removes it and starts again; the other files
            stay until they are replaced after the first epoch.
        ranks: the processes that train together; every one makes this call with the same arguments, but for the device of its
            model, and gets the same. The first alone writes. A training goes on with another number of them, up to rounding.
        progress: whether the first draws a bar with the time left on stderr.

    Raises:
        ValueError, TypeError: a shape or a dtype is wrong, or the checkpoint belongs to another model, config or data.
        DataError: nothing can be learnt from the data (a number not finite, an id out of range, one identity only), or
            the checkpoint is damaged.
        OSError: `output_dir` cannot be written, which is tried before anything else, or the disk is full; the last
            checkpoint is then still there.
        FloatingPointError: the loss or its gradient is not finite.

    Warns:
        CollapseWarning: from a third of the training on, after the first epoch that looks like a collapse.
    """
    output = None
    if output_dir is not None and ranks.is_first:
        output = OutputFolder(Path(output_dir), resume=resume)
    ranks.wait()
    if output_dir is not None and not ranks.is_first:
        output = OutputFolder(Path(output_dir), resume=resume, reads_only=True)
    clusters = LabeledClusters(model, features, labels, neighbors, name="the training set")
    if bool((clusters.labels == clusters.labels[0]).all()):
        raise DataError("labels holds one identity only: a training needs at least two to tell apart")
    held_out = None
    if validation is not None:
        held_out = LabeledClusters(
            model,
            validation.features,
            validation.labels,
            validation.neighbors,
            validation.rows,
            name="the validation set",
        )
    run = _Run(model, clusters, held_out, config, output, ranks)
    device = clusters.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), float32_products_by_onednn(device):
        _seed(config.seed, device)
        if output is not None:
            run.restore(output)
        ranks.wait()  # nobody writes before everybody has read
        run.finish(progress and ranks.is_first)
    return TrainingResult(run.history, run.best_epoch, None if output is None else output.path)


class _Run:
    """A training under way.

    Its state is `step`, `history`, `best_epoch`, `best`, `sums`, the model, the optimizer and the random generators. All
    else follows from the arguments, so that the state between any two steps is enough to go on.
    """

    def __init__(
        self,
        model: nn.Intraformer,
        clusters: LabeledClusters,
        held_out: LabeledClusters | None,
        config: TrainingConfig,
        output: OutputFolder | None,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.clusters = clusters
        self.config = config
        self.output = output if ranks.is_first else None
        self.ranks = ranks
        self.size = len(clusters.rows)
        self.steps_per_epoch = -(-self.size // config.batch_size)
        if self.size // self.steps_per_epoch < ranks.size:
            raise ValueError(
                f"batch_size = {config.batch_size}: batches of {self.size // self.steps_per_epoch} clusters leave some of "
                f"{ranks.size} processes without one; train with fewer processes or larger batches"
            )
        self.total_steps = config.epochs * self.steps_per_epoch
        self.precision = resolve_precision(config.precision, clusters.device)
        self.objective = config.objective()
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.guard = StepGuard()
        self.unseen: list[Tensor] = []

        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}
        self.sums = torch.zeros(len(nn.LossTerms._fields), dtype=torch.float64, device=clusters.device)

        self.validated = held_out is not None
        if held_out is None:
            scored, rows = clusters, clusters.rows[:: -(-self.size // WATCHED_CLUSTERS)]
        else:
            scored, rows = held_out, held_out.rows
        self.monitor = EdgeMonitor(scored, rows, batch_size=config.batch_size, precision=self.precision, ranks=ranks)
        if self.validated and self.monitor.cosine_auc is None:
            raise DataError(
                "the validation clusters hold no true neighbour or no false one, so that no epoch is better than another: "
                "hold other identities out, or give validation=None"
            )
        settings = {**asdict(config), "precision": self.precision}
        # How often a checkpoint is written changes nothing in the result.
        del settings["checkpoint_every"]
        self.identity = {
            "config": settings,
            "model": model.config,
            "training set": clusters.fingerprint(),
            "validation set": None if held_out is None else held_out.fingerprint(),
        }

    def finish(self, progress: bool) -> None:
        """Go on to the end; the model then holds the best weights."""
        self.model.train()
        self.replica = self.ranks.replicated(self.model)
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", disable=not progress)
        try:
            with bar, self.guard.installed():
                while len(self.history) < self.config.epochs:
                    self._epoch(bar)
        except KeyboardInterrupt:
            if self.output is not None and self.guard.whole:
                self._save_checkpoint(self.output)
            raise
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()

    def _epoch(self, bar: "tqdm[Any]") -> None:
        epoch = len(self.history)
        bar.set_description(f"epoch {epoch + 1}/{self.config.epochs}")
        order = torch.from_numpy(np.random.default_rng([self.config.seed, epoch]).permutation(self.size))
        look_every = 1 if self.clusters.device.type == "cpu" else LOOK_EVERY
        for i in range(self.step - epoch * self.steps_per_epoch, self.steps_per_epoch):
            start, stop = (j * self.size // self.steps_per_epoch for j in (i, i + 1))
            with self.guard:
                self._step(order[start:stop])
            bar.update()
            if len(self.unseen) >= look_every:
                bar.set_postfix(loss=f"{self._look():.3f}", refresh=False)
            at_end = i + 1 == self.steps_per_epoch
            if self.output is not None and self.step % self.config.checkpoint_every == 0 and not at_end:
                self._save_checkpoint(self.output)
        self._look()
        self._finish_epoch()

    def _step(self, rows: Tensor) -> None:
        if self.ranks.size > 1:
            _seed([self.config.seed, self.step, self.ranks.rank], self.clusters.device)
        _, x, valid = self.clusters.gather(self.ranks.share(rows))
        ids = self.clusters.neighbors[rows].long()
        target = self.clusters.targets(ids).to(x.device)
        all_valid = None if valid is None else (ids >= 0).to(x.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step, self.total_steps)
        with autocast(self.precision, x.device):
            logits = self.ranks.whole(full_precision(self.replica(x, valid)), len(rows))
        terms = self.objective.terms(logits, target, all_valid, progress=self.step / self.total_steps)
        self.optimizer.zero_grad()
        # The gradient of the batch is the sum of what its parts add to it, and replicas hold the mean.
        (self.ranks.size * terms.total).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.gradient_clip or math.inf)
        self.optimizer.step()
        self.sums += torch.stack(terms).detach()
        # Both, since an infinite loss can have a finite gradient.
        self.unseen.append(torch.stack((terms.total.detach(), norm)))
        self.step += 1

    def _look(self) -> float:
        """The loss of the last step. The one place where training waits for the device.

        Raises:
            FloatingPointError: a loss or a gradient since the last look was not finite.
        """
        if not self.unseen:
            return math.nan
        seen = torch.stack(self.unseen).cpu()
        first = self.step - len(self.unseen) + 1
        self.unseen.clear()
        bad = (~seen.isfinite().all(1)).nonzero()
        if len(bad):
            kept = "" if self.output is None else f"; {self.output.path} holds the last good checkpoint"
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {first + int(bad[0])} of {self.total_steps}: "
                f"lower learning_rate, or use precision='fp32'{kept}"
            )
        return float(seen[-1, 0])

    def _finish_epoch(self) -> None:
        scores = self.monitor.scores(self.model)
        reason = collapse_reason(
            scores,
            num_neighbors=self.clusters.neighbors.shape[1],
            progress=self.step / self.total_steps,
            bce_warmup=self.config.bce_warmup,
        )
        means = dict(zip(("loss", *nn.LossTerms._fields[1:]), (self.sums / self.steps_per_epoch).tolist(), strict=True))
        entry = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "learning_rate": self.config.learning_rate_at(self.step - 1, self.total_steps),
            **means,
            "scored_on": "validation" if self.validated else "training",
            **asdict(scores),
            "collapse": reason,
        }
        already_warned = any(earlier["collapse"] for earlier in self.history)
        improved = not self.validated or not self.history or scores.f1 > self.history[self.best_epoch - 1]["f1"]
        with self.guard:
            self.history.append(entry)
            self.sums.zero_()
            if improved:
                self.best_epoch = entry["epoch"]
                if self.validated:
                    self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            if self.output is not None:
                # The checkpoint comes last: a training killed before it does the end of this epoch again.
                if improved:
                    self.output.save_model(self.model, {"training": asdict(self.config), "epoch": entry})
                self.output.save_history(self.history)
                self._save_checkpoint(self.output)
        if reason and not already_warned:
            warnings.warn(f"after epoch {entry['epoch']}, {reason}", CollapseWarning, stacklevel=5)

    def _save_checkpoint(self, output: OutputFolder) -> None:
        # Nothing that is not finite gets into a checkpoint.
        self._look()
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"optimizer/{name}/{key}": value for key, value in self.optimizer.state[parameter].items()}
        tensors["sums"] = self.sums
        tensors["random/cpu"] = torch.get_rng_state()
        if self.clusters.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.clusters.device)
        state = {
            "identity": self.identity,
            "step": self.step,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        output.save_checkpoint(tensors, state)

    def restore(self, output: OutputFolder) -> None:
        """Take up the state of the folder's checkpoint, if there is one.

        Raises:
            DataError: it is damaged. ValueError: it belongs to another training.
        """
        try:
            checkpoint = output.load_checkpoint(self.identity)
            if checkpoint is not None:
                self._take_up(*checkpoint)
        except (KeyError, TypeError, RuntimeError) as error:
            raise DataError(f"{output.checkpoint} is damaged, something in it is missing: {WAY_OUT}") from error

    def _take_up(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        device = self.clusters.device
        named: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "random": {}, "sums": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            named[group][rest] = tensor
        self.model.load_state_dict(named["model"])
        self.best = {name: tensor.to(device) for name, tensor in named["best"].items()}
        for name, tensor in named["optimizer"].items():
            parameter, _, key = name.partition("/")
            self.optimizer.state[self.parameters[parameter]][key] = tensor.to(device)
        self.sums = named["sums"][""].to(device)
        torch.set_rng_state(named["random"]["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(named["random"]["cuda"], device)
        self.step, self.history, self.best_epoch = state["step"], state["history"], state["best_epoch"]


def _seed(seed: int | list[int], device: torch.device) -> None:
    if isinstance(seed, list):
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
