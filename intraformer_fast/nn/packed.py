"""Packed weights of the modules that the fused encoder block serves, kept from call to call."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from intraformer_fast.ops import encoder_block

# Beside what they were packed from. Not attributes of the modules: they are neither their state, nor to be copied or pickled.
_PACKED: WeakKeyDictionary[nn.Module, tuple[object, list[Tensor]]] = WeakKeyDictionary()


def packed_weights(owner: nn.Module, streams: Sequence[Sequence[Tensor]], sizes: encoder_block.Sizes) -> list[Tensor]:
    """The packed parameters of each stream of a module, from the last call where no parameter has changed since."""
    parameters = [p for stream in streams for p in stream]
    # Versions count what is written in place, but not through .data.
    made_from = (sizes, [(p.data_ptr(), p._version) for p in parameters], encoder_block.fingerprint(parameters))
    known = _PACKED.get(owner)
    if known is None or known[0] != made_from:
        known = _PACKED[owner] = (made_from, [encoder_block.pack(stream, sizes) for stream in streams])
    return known[1]


def forget(owner: nn.Module) -> None:
    """Free the packed weights of a module."""
    _PACKED.pop(owner, None)
