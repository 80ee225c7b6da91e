"""The arguments of one C-ATT. No Triton in this file: the op that takes them is known without it."""

from typing import NamedTuple

from torch import Tensor


class Call(NamedTuple):
    """C-ATT of all streams of a block, in the order of the operators' schemas.

    Attributes:
        member: [B, r, d], the streams 1..k-1 of each cluster side by side: num_streams near-equal runs as of numpy.array_split.
            With `member_ids` a table [N, d].
        anchor: [B, s, d], stream 0; with `anchor_ids` a table [M, d].
        weight: [w, d, d], w = num_streams or 1 (shared).
        valid_member, valid_anchor: bool[B, r], bool[B, s], False at padding of the context; not beside ids.
        num_streams: k - 1.
        anchor_asks: False: each member looks at the anchor. True: row j of the anchor looks at stream m; its answer is row j of m.
        member_ids, anchor_ids: int[B, r], int[B, s] rows of the tables; -1 is padding: as a query answered by 0, as context not there.
    """

    member: Tensor
    anchor: Tensor
    weight: Tensor
    valid_member: Tensor | None
    valid_anchor: Tensor | None
    num_streams: int
    anchor_asks: bool
    member_ids: Tensor | None = None
    anchor_ids: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the output, [B, r, d]."""
        batch, members = (self.member if self.member_ids is None else self.member_ids).shape[:2]
        return batch, members, self.member.shape[-1]

    @property
    def rows_asking(self) -> int:
        """Of a cluster: all members; or as many tokens of the anchor as the longest stream has."""
        members = self.shape[1]
        return -(-members // self.num_streams) if self.anchor_asks else members

    @property
    def context(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The tokens that are looked at [B, c, d] ([1, M, d], a table, where there are ids), which are valid, and their ids."""
        if self.anchor_asks:
            tokens, valid, ids = self.member, self.valid_member, self.member_ids
        else:
            tokens, valid, ids = self.anchor, self.valid_anchor, self.anchor_ids
        return (tokens if ids is None else tokens[None]), valid, ids
