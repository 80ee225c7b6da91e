"""What finds the candidates of a neighbor search: the native library, faiss where it is installed, torch otherwise."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.graph.cosine import UnitTable
from intraformer_fast.graph.lists import InvertedLists

EXACT_LIMIT = {"cpu": 50_000, "cuda": 1_000_000}
"""Samples up to which `index="auto"` searches exactly. Measured on the CPU only: the graph of 50,000 samples of width 64 with 32
neighbors takes one core 9.4 s exactly and 2.4 to 5 s by IVF that finds 95 %, the longer the more neighbors are noise; that of
20,000 1.6 to 2.0 and 0.9 to 1.7 s, so that below the limit little is gained for what is missed. The limit of the GPU is an estimate."""

FAISS_GPU_MOST = 2048
"""The most neighbors a GPU index of faiss returns."""

IVF_LISTS = 4.0
"""Inverted lists per square root of the number of samples."""

HNSW_LINKS = 32
"""Links per node (faiss's M)."""

HNSW_BEAM = 200
"""Candidates kept while building, and the fewest kept while searching."""

DESCENT_LINKS = 64
"""Neighbors of a node of the graph that NN-descent makes, at least."""

DESCENT_BEAM = 100
"""Candidates kept while searching that graph, at least."""

DESCENT_FEWEST = 100
"""Samples that faiss's NN-descent refuses."""

ADDED_TOGETHER = 2**17
"""Rows given to an index at once, so that a memory-mapped table is not copied as a whole."""

SCORES_BYTES = 2**28
"""Size of the block of scores the torch search holds."""

Searcher = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How a search is served.

    Attributes:
        index: "exact", "ivf", "hnsw" or "nndescent".
        engine: "torch", "native", "faiss-cpu" or "faiss-gpu".
        reason: why, in words.
    """

    index: str
    engine: str
    reason: str


def plan_search(
    samples: int, fetch: int, index: str, device: str, faiss_build: str, torch_cuda: bool, native: bool
) -> Plan:
    """Choose index and engine.

    Args:
        samples: rows of the table.
        fetch: neighbors to be fetched per query.
        index: "auto", "exact", "ivf", "hnsw" or "nndescent".
        device: "auto", "cpu" or "cuda".
        faiss_build: "gpu" where faiss sees a GPU, "cpu" where it does not, "none" where it is not installed.
        torch_cuda: whether torch sees a GPU.
        native: whether the native library searches inverted lists.

    Raises:
        ValueError: unknown index or device; no GPU; an index that does not exist on a GPU.
        MissingDependencyError: an approximate index without faiss, of which the native library has IVF.
    """
    if index not in ("auto", "exact", "ivf", "hnsw", "nndescent"):
        raise ValueError(f"index must be 'auto', 'exact', 'ivf', 'hnsw' or 'nndescent', got {index!r}")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    any_gpu = torch_cuda or faiss_build == "gpu"
    if device == "cuda" and not any_gpu:
        raise ValueError(
            "device='cuda' needs a GPU that torch or faiss-gpu can see, and there is none: use device='cpu'"
        )
    on_gpu = any_gpu and device != "cpu"
    faiss_on_gpu = on_gpu and faiss_build == "gpu" and fetch <= FAISS_GPU_MOST

    if index in ("ivf", "hnsw", "nndescent"):
        by_native = index == "ivf" and native and device != "cuda" and not faiss_on_gpu
        if faiss_build == "none" and not by_native:
            raise MissingDependencyError("faiss", "faiss-cpu", f"knn_graph(index={index!r})")
        if device == "cuda" and index != "ivf":
            raise ValueError(f"index={index!r} runs on the CPU only: use device='cpu', or index='ivf' or 'exact'")
        if device == "cuda" and not faiss_on_gpu:
            raise ValueError(
                f"index='ivf' on the GPU needs faiss-gpu and fetches at most {FAISS_GPU_MOST} neighbors, not {fetch}: "
                "use device='cpu' or index='exact'"
            )
        engine = "native" if by_native else "faiss-gpu" if index == "ivf" and faiss_on_gpu else "faiss-cpu"
        return Plan(index, engine, "asked for")

    limit = EXACT_LIMIT["cuda" if on_gpu else "cpu"]
    ivf_can_serve = faiss_on_gpu or ((native or faiss_build != "none") and device != "cuda")
    if index == "auto" and samples > limit and ivf_can_serve:
        engine = "faiss-gpu" if faiss_on_gpu else "native" if native else "faiss-cpu"
        return Plan("ivf", engine, f"more than {limit:,} samples")
    if faiss_on_gpu:
        return Plan("exact", "faiss-gpu", "faiss sees a GPU")
    if on_gpu and torch_cuda:
        return Plan("exact", "torch", "torch sees a GPU")
    if faiss_build != "none":
        return Plan("exact", "faiss-cpu", "faiss is installed")
    return Plan("exact", "torch", "faiss is not installed: pip install 'intraformer-fast[faiss-cpu]' for speed and IVF")


def import_faiss() -> Any | None:
    """The module faiss, or None where it is not installed; an installation that fails to load raises as it does."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        return None
    return faiss


def torch_searcher(table: UnitTable) -> Searcher:
    """Exact search by matrix products in blocks of queries."""
    step = max(1, SCORES_BYTES // (4 * len(table)))

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        with _ieee_float32(table.rows.device):
            found = [(table.rows[block] @ table.rows.T).topk(fetch) for block in queries.split(step)]
        return torch.cat([block.values for block in found]), torch.cat([block.indices for block in found])

    return search


def ivf_lists(samples: int) -> int:
    """How many inverted lists an IVF index of so many samples has."""
    return max(1, min(int(IVF_LISTS * math.sqrt(samples)), samples))


def faiss_index(faiss: Any, plan: Plan, rows: NDArray[np.float32], fetch: int, *, float16: bool = False) -> Any:
    """A faiss index over the rows, on the CPU: a second copy of them, half as large where `float16`, which IVF alone can."""
    total, width = rows.shape
    metric = faiss.METRIC_INNER_PRODUCT
    if plan.index == "exact":
        built = faiss.IndexFlatIP(width)
    elif plan.index == "ivf":
        lists = ivf_lists(total)
        quantizer = faiss.IndexFlatIP(width)
        if float16:
            kind = faiss.ScalarQuantizer.QT_fp16
            # By residual the products would be sums of two: no faster, and rounded twice.
            built = faiss.IndexIVFScalarQuantizer(quantizer, width, lists, kind, metric, False)
        else:
            built = faiss.IndexIVFFlat(quantizer, width, lists, metric)
        built.cp.spherical = True
        built.cp.niter = 10
        built.cp.max_points_per_centroid = 64
        built.cp.min_points_per_centroid = 1  # otherwise faiss prints advice about small sets
    elif plan.index == "nndescent":
        if total <= DESCENT_FEWEST:
            raise ValueError(
                f"index='nndescent' takes more than {DESCENT_FEWEST} samples, not {total}: use index='exact'"
            )
        built = faiss.IndexNNDescentFlat(width, min(max(DESCENT_LINKS, fetch), total - 1), metric)
        built.nndescent.search_L = max(DESCENT_BEAM, 2 * fetch)
    else:
        built = faiss.IndexHNSWFlat(width, HNSW_LINKS, metric)
        built.hnsw.efConstruction = HNSW_BEAM
        built.hnsw.efSearch = max(HNSW_BEAM, 2 * fetch)
    with _one_thread(faiss) if plan.index in ("hnsw", "nndescent") else contextlib.nullcontext():
        built.train(rows)
        together = total if plan.index == "nndescent" else ADDED_TOGETHER  # which takes all at once only
        for start in range(0, total, together):
            built.add(rows[start : start + together])
    return built


def faiss_searcher(
    faiss: Any, plan: Plan, index: Any, rows: NDArray[np.float32], probes: int | None = None
) -> Searcher:
    """Search through an index that `faiss_index` made of these rows, for IVF in so many lists."""
    if probes is not None:
        faiss.extract_index_ivf(index).nprobe = probes
    if plan.engine == "faiss-gpu":
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        scores, ids = index.search(np.ascontiguousarray(rows[queries.cpu().numpy()]), fetch)
        return torch.from_numpy(scores).to(queries.device), torch.from_numpy(ids).to(queries.device)

    return search


def lists_searcher(lists: InvertedLists, table: UnitTable, probes: int) -> Searcher:
    """Search through so many of the lists of these rows."""

    def search(queries: Tensor, fetch: int) -> tuple[Tensor, Tensor]:
        scores, ids = lists.search(table.rows[queries].cpu(), probes, fetch)
        return scores.to(queries.device), ids.to(queries.device)

    return search


@contextlib.contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """For building graphs: several threads build another HNSW each time (faiss 1.10 to 1.13 do, 1.15 does not)."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


@contextlib.contextmanager
def _ieee_float32(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32, whatever autocast or TF32 setting a training around this call has chosen."""
    backends: Any = torch.backends
    settings = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
    chosen = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        settings.fp32_precision = chosen
