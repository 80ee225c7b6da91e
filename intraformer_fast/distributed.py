"""The processes of one run, on one machine or several, as torchrun starts them.

    torchrun --nproc-per-node 2 --no-python intraformer-fast cluster MODEL FEATURES --work RUN --output clusters.npy

What each process makes goes into files of one folder that all of them see; they only wait for each other. Torchrun ends all of
them when one dies, and the same command then goes on with what is in the folder.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch.distributed

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


ALONE = Ranks()


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """The ranks that torchrun's environment names, connected by gloo for as long as the block runs; one without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
