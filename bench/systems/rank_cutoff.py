"""The first r neighbours of everyone, linked by the rules of the Intraformer: what of its score the linking alone explains."""

from dataclasses import dataclass

from intraformer_fast.bench import baselines
from intraformer_fast.pipeline import NeighborGraph
from intraformer_fast.selection import Scored, choose_linking

from .protocol import Fitted


@dataclass(frozen=True)
class RankCutoff:
    """Hyper-parameters: how many neighbours, that validation chooses from, with the linking."""

    neighbors: tuple[int, ...] = (20, 30, 40, 50, 60)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def tried(r: int) -> Scored:
            known = baselines.rank_cutoff_probability(validation.neighbors, r)
            return choose_linking(validation.neighbors, validation.similarity, known, validation.labels)[0]

        scored = {r: tried(r) for r in self.neighbors}
        r = max(scored, key=lambda r: scored[r].score)
        linking = scored[r].linking
        return Fitted(
            lambda graph: linking.link(
                graph.neighbors, graph.similarity, baselines.rank_cutoff_probability(graph.neighbors, r)
            ),
            f"the first {r} neighbours; {linking}",
        )
