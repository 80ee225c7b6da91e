"""The processes of one run, on one machine or several, as torchrun starts them.

    torchrun --nproc-per-node 2 --no-python intraformer-fast cluster MODEL FEATURES --work RUN --output clusters.npy
    torchrun --nproc-per-node 2 --no-python intraformer-fast train FEATURES LABELS --output RUN

What each process makes of a graph or of edges goes into files of one folder that all of them see; they only wait for each other. In
training each takes its share of every batch. Torchrun ends all of them when one dies, and the same command then goes on with what
is in the folder.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

# A process may wait as long as another builds an index; one that died is noticed at once, by its connection.
PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process and how many there are: `rank` in [0, size)."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether what is done once is this process's to do."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of some rows; the parts follow each other, and differ in length by one at most."""
        return rows.tensor_split(self.size)[self.rank]

    def whole(self, part: Tensor, length: int) -> Tensor:
        """All parts of a tensor of so many rows, each as `share` cuts it. Gradients reach this process's part alone."""
        if self.size == 1:
            return part
        lengths = [len(rows) for rows in torch.arange(length).tensor_split(self.size)]
        padded = part.new_zeros(lengths[0], *part.shape[1:])
        padded[: len(part)] = part.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(parts, padded)
        parts = [found[:rows] for found, rows in zip(parts, lengths, strict=True)]
        parts[self.rank] = part
        return torch.cat(parts)

    def replicated(self, model: nn.Module) -> nn.Module:
        """The model, whose gradients are from now on the means over all processes; its weights become those of the first."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)


ALONE = Ranks()


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """The ranks that torchrun's environment names, connected for as long as the block runs; one without it.

    By gloo, and by NCCL for what lies on GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
