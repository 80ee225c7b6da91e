"""What an execution counts."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Of global memory. A sector (32 bytes) counts once for each warp instruction that touches it.

    Attributes:
        instructions: by warp.
        sectors: see above.
        bytes: by thread; what several threads ask for counts for each.
    """

    instructions: int = 0
    sectors: int = 0
    bytes: int = 0


@dataclass
class Counts:
    """What the warps of all blocks that were executed asked for.

    Attributes:
        loads, stores: by the name of the array.
        instructions: by opcode and warp; a warp counts where one lane at least is not switched off by its predicate.
        mma: matrix instructions by shape and types, and warp.
        mma_flops: floating-point operations of those; a multiplication and an addition are two.
        shared_instructions: accesses of shared memory, by warp.
        wavefronts: passes that the banks of shared memory (32 of 4 bytes) need for them: one for each of 128 bytes, and one more for
            each further word that a bank has to serve in a pass.
        bank_conflicts: those further ones.
        barriers: of the whole block.
    """

    loads: dict[str, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    stores: dict[str, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    instructions: Counter[str] = field(default_factory=Counter)
    mma: Counter[str] = field(default_factory=Counter)
    mma_flops: int = 0
    shared_instructions: int = 0
    wavefronts: int = 0
    bank_conflicts: int = 0
    barriers: int = 0

    @property
    def load_sectors(self) -> int:
        return sum(traffic.sectors for traffic in self.loads.values())

    @property
    def store_sectors(self) -> int:
        return sum(traffic.sectors for traffic in self.stores.values())

    @property
    def sectors(self) -> int:
        return self.load_sectors + self.store_sectors
