"""Global memory as arrays at made-up addresses, and the shared memory of a block, which watches for races."""

import functools
from dataclasses import dataclass

import numpy as np

from .counts import Counts, Traffic
from .program import WARP, Fault
from .values import Array

SECTOR = 32
BANKS, WORD = 32, 4


@dataclass
class Region:
    """Attributes:
    name: in the counts.
    address: of the first byte.
    bytes: a view of the array.
    allowed: which of them may be accessed; None for all.
    """

    name: str
    address: int
    bytes: Array
    allowed: Array | None = None

    def cells(self, offsets: Array, size: int) -> Array:
        """The index of each byte, [offsets, size].

        Raises:
            Fault: one is not to be accessed.
        """
        found = offsets[:, None] + np.arange(size)
        if self.allowed is not None and not self.allowed[found].all():
            raise Fault(f"an access of {size} bytes is between the elements of {self.name}")
        return found


class Memory:
    """Arrays at made-up addresses, far from one another; an access has to lie in one of them."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    def add(self, array: Array, address: int | None = None, name: str = "", allowed: Array | None = None) -> int:
        """The address of the array's first byte. The array has to be contiguous: it is read and written in place.

        Args:
            array: any.
            address: of its first byte; far from all others by default.
            name: in the counts.
            allowed: which of its bytes may be accessed; all by default.
        """
        if not array.flags.c_contiguous:
            raise ValueError("the array is not contiguous: expected one that can be seen as bytes")
        address = (len(self.regions) + 1) << 32 if address is None else address
        name = name or f"array {len(self.regions)}"
        self.regions.append(Region(name, address, array.reshape(-1).view(np.uint8), allowed))
        return address

    def locate(self, addresses: Array, size: int) -> list[tuple[Region, Array, Array]]:
        """(region, which of the addresses are in it, where in it) for each region touched.

        Raises:
            Fault: an access is in none, or only partly.
        """
        touched, found = [], 0
        for region in self.regions:
            inside = (addresses >= region.address) & (addresses + size <= region.address + region.bytes.size)
            if inside.any():
                touched.append((region, inside, addresses[inside] - region.address))
                found += len(touched[-1][2])
        if found != addresses.size:
            raise Fault(f"an access of {size} bytes is out of bounds ({self._nearest(addresses, size)})")
        return touched

    def _nearest(self, addresses: Array, size: int) -> str:
        def outside(region: Region) -> Array:
            return np.maximum(region.address - addresses, addresses + size - region.address - region.bytes.size)

        far = {region.name: outside(region) for region in self.regions}
        alone = np.min(list(far.values()), axis=0) if far else np.ones(1)
        worst = int(np.argmax(alone))
        name = min(far, key=lambda name: int(far[name][worst])) if far else "nothing"
        return (
            f"{int(alone[worst])} bytes beyond {name}" if 0 < alone[worst] < 2**20 else f"at {int(addresses[worst]):#x}"
        )

    def load(self, addresses: Array, size: int, warps: Array, counts: Counts) -> Array:
        """The bytes at each address, [addresses, size]."""
        data = np.empty((addresses.size, size), np.uint8)
        for region, inside, offsets in self.locate(addresses, size):
            count_traffic(counts.loads[region.name], addresses[inside], size, warps[inside])
            data[inside] = region.bytes[region.cells(offsets, size)]
        return data

    def store(self, addresses: Array, data: Array, warps: Array, counts: Counts) -> None:
        """Write the bytes, [addresses, size]."""
        size = data.shape[1]
        for region, inside, offsets in self.locate(addresses, size):
            count_traffic(counts.stores[region.name], addresses[inside], size, warps[inside])
            region.bytes[region.cells(offsets, size)] = data[inside]


def count_traffic(traffic: Traffic, addresses: Array, size: int, warps: Array) -> None:
    """Add one instruction of these warps; accesses are aligned to their size, so each is within one sector."""
    traffic.instructions += len(np.unique(warps))
    traffic.sectors += len(np.unique(warps.astype(np.int64) << 48 | addresses // SECTOR))
    traffic.bytes += addresses.size * size


def count_banks(counts: Counts, addresses: Array, size: int, lanes: Array) -> None:
    """Add one instruction on shared memory.

    A pass serves 128 bytes: all lanes of a warp with up to 4 bytes each, half of them with 8, a quarter with 16. It takes as many
    wavefronts as the busiest bank has different words to serve.

    Args:
        counts: to add to.
        addresses: in bytes.
        size: bytes a lane.
        lanes: threads of the block.
    """
    # Which words differ, and in which bank they are, is the same for a pattern anywhere else in memory.
    start = addresses.min() // (BANKS * WORD) * (BANKS * WORD)
    wavefronts, conflicts = _passes((addresses - start).tobytes(), size, lanes.tobytes())
    counts.shared_instructions += len(np.unique(lanes // WARP))
    counts.wavefronts += wavefronts
    counts.bank_conflicts += conflicts


@functools.lru_cache(maxsize=4096)
def _passes(addresses: bytes, size: int, lanes: bytes) -> tuple[int, int]:
    """Wavefronts, and how many of them are for conflicts."""
    passes = np.frombuffer(lanes, np.int64) // min(WARP, BANKS * WORD // size)
    words = (np.frombuffer(addresses, np.int64) // WORD)[:, None] + np.arange(max(1, size // WORD))
    wanted = np.unique((passes[:, None] << 32 | words).reshape(-1))
    numbers, index = np.unique(wanted >> 32, return_inverse=True)
    busy = np.bincount(index * BANKS + wanted % BANKS, minlength=len(numbers) * BANKS).reshape(-1, BANKS).max(1)
    return int(busy.sum()), int(busy.sum()) - len(numbers)


class SharedMemory:
    """The shared memory of one block.

    Between two barriers, what one warp writes no other may read or write, and what one reads no other may write. Several lanes may
    store the same value to the same place with one instruction. Lanes of one warp are taken to run in step.
    """

    def __init__(self, size: int) -> None:
        self.bytes = np.full(size, 0xFF, np.uint8)  # NaN where nothing was written
        self.writers = np.zeros(size, np.uint32)  # warps since the last barrier, a bit each
        self.readers = np.zeros(size, np.uint32)
        self.pending = np.zeros(size, bool)  # an asynchronous copy may write it at any time

    def barrier(self) -> None:
        """All warps have arrived."""
        self.writers[:] = 0
        self.readers[:] = 0

    def cells(self, addresses: Array, size: int) -> Array:
        """The index of each byte, [addresses, size]."""
        if (addresses < 0).any() or (addresses + size > self.bytes.size).any():
            raise Fault(
                f"a shared access is out of bounds ({int(addresses.max())} + {size} of {self.bytes.size} bytes)"
            )
        found = addresses[:, None] + np.arange(size)
        if self.pending[found].any():
            raise Fault("a race in shared memory: an asynchronous copy to the same place is not waited for")
        return found

    def load(self, addresses: Array, size: int, warps: Array) -> Array:
        """The bytes at each address, [addresses, size]."""
        cells = self.cells(addresses, size)
        bits = (np.uint32(1) << warps.astype(np.uint32))[:, None]
        writers = self.writers[cells]
        if ((writers != 0) & (writers & bits == 0)).any():
            raise Fault("a race in shared memory: another warp wrote it since the last barrier")
        self._mark(self.readers, cells, warps)
        return self.bytes[cells]

    def store(self, addresses: Array, data: Array, warps: Array) -> None:
        """Write the bytes, [addresses, size]."""
        cells = self.cells(addresses, data.shape[1])
        self._claim(cells, warps)
        self.bytes[cells] = data
        if (self.bytes[cells] != data).any():
            raise Fault("a race in shared memory: two threads write different values to the same place")
        self._mark(self.writers, cells, warps)

    def begin_copy(self, addresses: Array, size: int, warps: Array) -> None:
        """An asynchronous copy of these warps may write there from now on."""
        cells = self.cells(addresses, size)
        self._claim(cells, warps)
        self.pending[cells] = True
        self.bytes[cells] = 0xFF

    def end_copy(self, addresses: Array, data: Array, warps: Array) -> None:
        """The threads that began it have waited for it: to them it is written."""
        self.pending[addresses[:, None] + np.arange(data.shape[1])] = False
        self.store(addresses, data, warps)

    def _claim(self, cells: Array, warps: Array) -> None:
        bits = (np.uint32(1) << warps.astype(np.uint32))[:, None]
        if ((self.writers[cells] | self.readers[cells]) & ~bits).any():
            raise Fault("a race in shared memory: another warp read or wrote it since the last barrier")

    @staticmethod
    def _mark(mask: Array, cells: Array, warps: Array) -> None:
        first, last = int(warps.min()), int(warps.max())
        for warp in range(first, last + 1):
            chosen = cells if first == last else cells[warps == warp]
            mask[chosen] |= np.uint32(1) << np.uint32(warp)
