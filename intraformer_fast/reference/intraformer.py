"""The Intraformer in plain PyTorch: the specification every faster module is held against."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast.reference.attention import block_attention, correlation_attention
from intraformer_fast.reference.decomposition import subcluster_bounds

TOKENS = ("features", "similarities")
POSITIONS = ("learned", "sinusoidal", "none")
CROSS_QUERIES = ("member", "anchor")
BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")

Bounds = list[tuple[int, int]]


class StreamLayer(nn.Module):
    """One stream's own part of a block: pre-norm multi-head self-attention and a GELU feed-forward network.

    It holds the parameters and the parts that work token by token; the attention between tokens is the block's.
    """

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(embed_dim)
        self.query_key_value = nn.Linear(embed_dim, 3 * embed_dim)
        self.attention_output = nn.Linear(embed_dim, embed_dim)
        self.norm_ffn = nn.LayerNorm(embed_dim)
        self.ffn_up = nn.Linear(embed_dim, ffn_dim)
        self.ffn_down = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def project(self, h: Tensor) -> Tensor:
        """Queries, keys and values of the normalised tokens: [B, s, d] -> [B, s, 3 d]."""
        return self.query_key_value(self.norm_attention(h))

    def add_attention(self, h: Tensor, attended: Tensor) -> Tensor:
        """Residual after self-attention; `attended` [B, s, d] holds the heads side by side."""
        return h + self.dropout(self.attention_output(attended))

    def add_ffn(self, h: Tensor) -> Tensor:
        """Residual after the feed-forward network."""
        return h + self.dropout(self.ffn_down(F.gelu(self.ffn_up(self.norm_ffn(h)))))


class CrossLayer(nn.Module):
    """The C-ATT parameters of a block: one correlation matrix a Cross-transformer, and the norms in front of it.

    The anchor (sub-cluster 0) is normalised once for all streams, so that all of them read the same context.
    """

    def __init__(self, embed_dim: int, num_cross: int) -> None:
        super().__init__()
        self.norm_anchor = nn.LayerNorm(embed_dim)
        self.norm_members = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(num_cross))
        # Standard deviation 1/d: scores of layer-normed rows, sums of d^2 products, then start near unit variance.
        self.weight = nn.Parameter(torch.randn(num_cross, embed_dim, embed_dim) / embed_dim)


class Block(nn.Module):
    """One block of all k streams: a Transformer for sub-cluster 0, Cross-transformers for the others."""

    def __init__(
        self,
        embed_dim: int,
        num_subclusters: int,
        ffn_dim: int,
        dropout: float,
        share_cross_weights: bool,
        cross_attention: bool,
    ) -> None:
        super().__init__()
        num_cross = min(num_subclusters - 1, 1) if share_cross_weights else num_subclusters - 1
        self.layers = nn.ModuleList(StreamLayer(embed_dim, ffn_dim, dropout) for _ in range(1 + num_cross))
        self.cross = CrossLayer(embed_dim, num_cross) if num_cross and cross_attention else None
        self.dropout = nn.Dropout(dropout)

    def layer(self, stream: int) -> StreamLayer:
        """The layer of a stream; with shared weights every stream but the first has the same one."""
        return self.layers[min(stream, len(self.layers) - 1)]  # type: ignore[return-value]


class Intraformer(nn.Module):
    """Predicts which of a sample's neighbours share its identity (section V of the paper).

    The n neighbours of a centroid, in falling similarity, are cut into k sub-clusters. Each is a stream through L pre-norm
    blocks; block l does, with `h0_in` the tokens of stream 0 as they enter it,

        stream 0:   h0 <- h0 + SelfAttention(LN h0)                                           h0 <- h0 + FFN(LN h0)
        stream m:   hm <- hm + SelfAttention(LN hm);  hm <- hm + C-ATT(LN hm, LN h0_in);      hm <- hm + FFN(LN hm)

    with C-ATT(x, c) = softmax((x W) c^T) c and one correlation matrix W a stream and block.

    Args:
        embed_dim: width d of a token.
        num_neighbors: the most neighbours n of a cluster, the centroid included. Fewer may be given.
        num_subclusters: k. 1 is plain full attention over the cluster.
        num_layers: L, stacked blocks.
        num_heads: H, heads of the self-attention. Divides `embed_dim`.
        input_dim: width of the features. None means `embed_dim`; another width puts a Linear in front.
        ffn_dim: hidden width of the feed-forward network. None means 4 * `embed_dim`.
        dropout: rate on what attention and feed-forward network add to the residual. 0 by default, as in the paper.
        tokens: what a token is made from: "features", as in the paper, that of the neighbour; or "similarities", its cosines to all
            members of the cluster in their order, by one Linear(num_neighbors, d). Features are then compared and never read, so
            that nothing about the training identities can be learnt by heart.
        position: how a token knows its rank: "learned" (an embedding a rank), "sinusoidal" or "none".
        similarity_input: whether a token also carries its cosine to the centroid. Off by default: the paper's tokens do not.
            For features; among the similarities it is the first.
        cross_query: who asks in C-ATT: "member" (tokens of stream m look at sub-cluster 0) or "anchor" (tokens of
            sub-cluster 0 look at stream m, and row j of the answer is added to token j of stream m).
        share_cross_weights: one Cross-transformer for the streams 1..k-1 instead of one each.
        cross_attention: whether there is C-ATT. Without it, for ablations, the streams are Transformers that never meet.
        backend: which implementation serves the attentions. The reference knows one, itself.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        num_neighbors: int = 256,
        num_subclusters: int = 4,
        num_layers: int = 6,
        num_heads: int = 4,
        *,
        input_dim: int | None = None,
        ffn_dim: int | None = None,
        dropout: float = 0.0,
        tokens: str = "features",
        position: str = "learned",
        similarity_input: bool = False,
        cross_query: str = "member",
        share_cross_weights: bool = False,
        cross_attention: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        input_dim = embed_dim if input_dim is None else input_dim
        ffn_dim = 4 * embed_dim if ffn_dim is None else ffn_dim
        sizes = {
            "embed_dim": embed_dim,
            "num_neighbors": num_neighbors,
            "num_subclusters": num_subclusters,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "input_dim": input_dim,
            "ffn_dim": ffn_dim,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} = {size}: expected at least 1")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim = {embed_dim} is not divisible by num_heads = {num_heads}: change one of them")
        if position == "sinusoidal" and embed_dim % 2:
            raise ValueError(f"embed_dim = {embed_dim} is odd: sinusoidal positions need an even width")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout}: expected a rate in [0, 1)")
        for name, value, known in (
            ("tokens", tokens, TOKENS),
            ("position", position, POSITIONS),
            ("cross_query", cross_query, CROSS_QUERIES),
            ("backend", backend, BACKENDS),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: expected one of {', '.join(map(repr, known))}")

        if similarity_input and tokens == "similarities":
            raise ValueError(
                "similarity_input is for tokens='features': the similarities begin with that to the centroid"
            )

        self.config = {
            **sizes,
            "dropout": dropout,
            "tokens": tokens,
            "position": position,
            "similarity_input": similarity_input,
            "cross_query": cross_query,
            "share_cross_weights": share_cross_weights,
            "cross_attention": cross_attention,
        }
        self.embed_dim = embed_dim
        self.num_neighbors = num_neighbors
        self.num_subclusters = num_subclusters
        self.num_heads = num_heads
        self.input_dim = input_dim
        self.tokens = tokens
        self.position = position
        self.cross_query = cross_query
        self.backend = backend

        token_dim = input_dim if tokens == "features" else num_neighbors
        projects = tokens == "similarities" or input_dim != embed_dim
        self.input_projection = nn.Linear(token_dim, embed_dim) if projects else None
        self.similarity_projection = nn.Linear(1, embed_dim) if similarity_input else None
        self.rank_embedding = (
            nn.Parameter(0.02 * torch.randn(num_neighbors, embed_dim)) if position == "learned" else None
        )
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_subclusters, ffn_dim, dropout, share_cross_weights, cross_attention)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, 1)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits of "has the centroid's identity", one a neighbour.

        Args:
            x: [B, n, d_in] features of each cluster's neighbours, the centroid first, L2-normalised.
            valid: bool[B, n], False at padding. None means that there is none.

        Returns:
            [B, n] logits; 0 at padding. Whatever stands in the padding of `x`, NaN included, changes nothing.

        Raises:
            ValueError: a shape is wrong, or n is more than `num_neighbors` where ranks are learned.
            TypeError: `valid` is not boolean.
        """
        self._check(x, valid)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        return self._logits(self._embed(x), valid)

    def forward_graph(self, features: Tensor, neighbors: Tensor) -> Tensor:
        """The same from a feature table and neighbour ids.

        Args:
            features: [N, d_in], L2-normalised.
            neighbors: int[B, n] rows of `features`, the centroid's first; -1 is padding.

        Returns:
            [B, n] logits; 0 at padding.

        Raises:
            ValueError: a shape is wrong, or ids are not integers.
        """
        if features.dim() != 2 or neighbors.dim() != 2 or neighbors.is_floating_point():
            raise ValueError(
                f"features {tuple(features.shape)} and neighbors {tuple(neighbors.shape)} of {neighbors.dtype}: "
                "expected a table [N, d] and integer ids [B, n]"
            )
        return self(features[neighbors.clamp(min=0)], neighbors >= 0)

    def _logits(self, tokens: Tensor, valid: Tensor | None, first: int = 0) -> Tensor:
        """From the tokens that enter block `first`: [B, n, d] -> [B, n]."""
        bounds = subcluster_bounds(tokens.shape[1], self.num_subclusters)
        for block in self.blocks[first:]:
            tokens = self._block(block, tokens, valid, bounds)  # type: ignore[arg-type]
        logits = self.head(self.norm(tokens)).squeeze(-1)
        return logits if valid is None else logits.masked_fill(~valid, 0.0)

    def _check(self, x: Tensor, valid: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.input_dim:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: expected [B, n, {self.input_dim}], "
                f"since this model was made with input_dim = {self.input_dim}"
            )
        if self.knows_ranks and x.shape[1] > self.num_neighbors:
            raise ValueError(
                f"x has {x.shape[1]} neighbours a cluster and the model learned {self.num_neighbors} ranks: "
                "give fewer neighbours or make the model with a larger num_neighbors"
            )
        if valid is not None:
            if valid.dtype != torch.bool:
                raise TypeError(f"valid is {valid.dtype}: expected torch.bool, True where a neighbour is real")
            if valid.shape != x.shape[:2]:
                raise ValueError(
                    f"valid has shape {tuple(valid.shape)}: expected {tuple(x.shape[:2])}, one flag a neighbour"
                )

    @property
    def knows_ranks(self) -> bool:
        """Whether there are parameters of each rank, so that `num_neighbors` is the most a cluster may have."""
        return self.position == "learned" or self.tokens == "similarities"

    def _embed(self, x: Tensor) -> Tensor:
        if self.tokens == "similarities":
            tokens = self._project_similarities(x)
        else:
            tokens = x if self.input_projection is None else self.input_projection(x)
        if self.similarity_projection is not None:
            cosine = F.cosine_similarity(x, x[:, :1], dim=-1)
            tokens = tokens + self.similarity_projection(cosine[..., None].to(x.dtype))
        if self.rank_embedding is not None:
            tokens = tokens + self.rank_embedding[: x.shape[1]]
        elif self.position == "sinusoidal":
            tokens = tokens + sinusoidal_positions(x.shape[1], self.embed_dim, tokens)
        return tokens

    def _project_similarities(self, x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=-1)
        # In full: where neighbours differ cosines do in the third digit, which bfloat16 rounds away.
        with torch.autocast(x.device.type, enabled=False):
            cosines = unit @ unit.transpose(1, 2)
        projection = self.input_projection
        assert projection is not None
        # Ranks that a shorter cluster does not have are like padding: cosine 0.
        return F.linear(cosines, projection.weight[:, : x.shape[1]], projection.bias)

    def _block(self, block: Block, tokens: Tensor, valid: Tensor | None, bounds: Bounds) -> Tensor:
        streams = [tokens[:, start:stop] for start, stop in bounds]
        masks = [None if valid is None else valid[:, start:stop] for start, stop in bounds]
        outputs = []
        for m, (h, mask) in enumerate(zip(streams, masks, strict=True)):
            layer = block.layer(m)
            q, k, v = split_heads(layer.project(h), self.num_heads)
            h = layer.add_attention(h, merge_heads(block_attention(q, k, v, 1, valid=mask)))
            if m > 0 and block.cross is not None:
                h = h + self._cross(block, m, h, streams[0], mask, masks[0], correlation_attention)
            outputs.append(layer.add_ffn(h))
        return torch.cat(outputs, dim=1)

    def _cross(
        self,
        block: Block,
        stream: int,
        member: Tensor,
        anchor: Tensor,
        member_valid: Tensor | None,
        anchor_valid: Tensor | None,
        attention: Callable[..., Tensor],
    ) -> Tensor:
        """What C-ATT adds to the tokens of a stream: `member` [B, s_m, d] and `anchor` [B, s_0, d] -> [B, s_m, d]."""
        cross = block.cross
        assert cross is not None
        index = min(stream, len(cross.norm_members)) - 1
        member = cross.norm_members[index](member)
        anchor = cross.norm_anchor(anchor)
        if self.cross_query == "member":
            answer = attention(member, anchor, cross.weight[index], valid_context=anchor_valid)
        else:
            # Sub-cluster 0 is never shorter than the others, so that every token of the stream gets a row.
            query = anchor[:, : member.shape[1]]
            answer = attention(query, member, cross.weight[index], valid_context=member_valid)
        return block.dropout(answer)


def split_heads(projected: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, n, 3 d] -> queries, keys and values, each a [B, H, n, d/H] view."""
    # Not by a view of three: the gradients would have to be brought into its order first, number by number.
    query, key, value = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
    return query, key, value


def merge_heads(attended: Tensor) -> Tensor:
    """[B, H, n, d/H] -> [B, n, d], the heads side by side."""
    return attended.transpose(1, 2).flatten(2)


def sinusoidal_positions(n: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the rank at geometrically spaced frequencies (Vaswani et al. 2017): [n, width]."""
    rank = torch.arange(n, device=like.device, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float64) * (-math.log(1e4) / width))
    angle = rank * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).to(like.dtype)
