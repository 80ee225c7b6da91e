import sys

import pytest

from intraformer_fast.graph import knn


@pytest.fixture
def no_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    knn._tell.cache_clear()
    yield
    knn._tell.cache_clear()
