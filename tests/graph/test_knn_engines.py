"""Which engine searches which index, and what is said where one is missing."""

import logging
import sys

import numpy as np
import pytest

from intraformer_fast import native
from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.graph import knn_graph
from intraformer_fast.graph.engines import EXACT_LIMIT, plan_search


def test_without_faiss_torch_serves_and_says_so_once(no_faiss, caplog):
    with caplog.at_level(logging.INFO, logger="intraformer_fast"):
        knn_graph(np.eye(3), 2, device="cpu")
        knn_graph(np.eye(3), 2, device="cpu")
    said = [record.getMessage() for record in caplog.records if record.name == "intraformer_fast"]
    assert len(said) == 1
    assert "exact search by torch" in said[0]
    assert "pip install 'intraformer-fast[faiss-cpu]'" in said[0]


@pytest.fixture
def no_native(monkeypatch):
    monkeypatch.setitem(native.NOT_LOADED, "cpu", ["taken away"])


@pytest.mark.parametrize("index", ["ivf", "hnsw", "nndescent"])
def test_approximate_index_without_faiss_and_library_names_the_extra(no_faiss, no_native, index):
    with pytest.raises(MissingDependencyError, match=rf"knn_graph\(index='{index}'\).*faiss.*\[faiss-cpu\]"):
        knn_graph(np.eye(3), 2, index=index)


def test_faiss_that_fails_to_load_is_not_taken_for_absent(monkeypatch, tmp_path):
    (tmp_path / "faiss.py").write_text("import a_library_that_is_not_there")
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        knn_graph(np.eye(3), 2)


CPU, CUDA = EXACT_LIMIT["cpu"], EXACT_LIMIT["cuda"]


@pytest.mark.parametrize(
    ("samples", "index", "device", "faiss_build", "torch_cuda", "expected"),
    [
        (CPU, "auto", "auto", "none", False, ("exact", "torch")),
        (CPU + 1, "auto", "auto", "none", False, ("ivf", "native")),
        (CPU + 1, "auto", "auto", "cpu", False, ("ivf", "native")),
        (10, "ivf", "auto", "cpu", True, ("ivf", "native")),
        (10, "ivf", "auto", "gpu", True, ("ivf", "faiss-gpu")),
        (10, "ivf", "cpu", "gpu", True, ("ivf", "native")),
        (10, "hnsw", "auto", "cpu", False, ("hnsw", "faiss-cpu")),
    ],
)
def test_lists_are_the_native_librarys_where_no_gpu_has_them(samples, index, device, faiss_build, torch_cuda, expected):
    plan = plan_search(samples, 80, index, device, faiss_build, torch_cuda, True)
    assert (plan.index, plan.engine) == expected


@pytest.mark.parametrize(
    ("samples", "fetch", "index", "device", "faiss_build", "torch_cuda", "expected"),
    [
        (CPU, 80, "auto", "auto", "cpu", False, ("exact", "faiss-cpu")),
        (CPU + 1, 80, "auto", "auto", "cpu", False, ("ivf", "faiss-cpu")),
        (CPU + 1, 80, "exact", "auto", "cpu", False, ("exact", "faiss-cpu")),
        (10, 80, "ivf", "auto", "cpu", False, ("ivf", "faiss-cpu")),
        (10**7, 80, "auto", "auto", "none", False, ("exact", "torch")),
        (CUDA, 80, "auto", "auto", "cpu", True, ("exact", "torch")),
        (CUDA + 1, 80, "auto", "auto", "cpu", True, ("ivf", "faiss-cpu")),
        (CUDA + 1, 80, "auto", "cuda", "cpu", True, ("exact", "torch")),
        (CPU + 1, 80, "auto", "cpu", "gpu", True, ("ivf", "faiss-cpu")),
        (CUDA, 80, "auto", "auto", "gpu", True, ("exact", "faiss-gpu")),
        (CUDA + 1, 80, "auto", "auto", "gpu", False, ("ivf", "faiss-gpu")),
        (CUDA, 2049, "auto", "auto", "gpu", True, ("exact", "torch")),
        (CUDA, 2049, "auto", "auto", "gpu", False, ("exact", "faiss-cpu")),
        (CUDA + 1, 2049, "auto", "auto", "gpu", True, ("ivf", "faiss-cpu")),
        (10, 2049, "ivf", "auto", "gpu", True, ("ivf", "faiss-cpu")),
        (10, 80, "hnsw", "auto", "gpu", True, ("hnsw", "faiss-cpu")),
        (10, 80, "exact", "cuda", "none", True, ("exact", "torch")),
        (10, 80, "exact", "cpu", "none", True, ("exact", "torch")),
    ],
)
def test_choice_of_index_and_engine(samples, fetch, index, device, faiss_build, torch_cuda, expected):
    plan = plan_search(samples, fetch, index, device, faiss_build, torch_cuda, False)
    assert (plan.index, plan.engine) == expected


@pytest.mark.parametrize(
    ("fetch", "index", "device", "faiss_build", "torch_cuda", "said"),
    [
        (80, "exact", "cuda", "cpu", False, "there is none: use device='cpu'"),
        (80, "hnsw", "cuda", "gpu", True, "'hnsw' runs on the CPU only"),
        (80, "nndescent", "cuda", "gpu", True, "'nndescent' runs on the CPU only"),
        (80, "ivf", "cuda", "cpu", True, "needs faiss-gpu"),
        (2049, "ivf", "cuda", "gpu", True, "at most 2048 neighbors, not 2049"),
    ],
)
def test_what_cannot_be_served_is_told(fetch, index, device, faiss_build, torch_cuda, said):
    with pytest.raises(ValueError, match=said):
        plan_search(100, fetch, index, device, faiss_build, torch_cuda, False)
