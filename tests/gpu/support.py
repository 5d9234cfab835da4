"""What all GPU tests share.  Importing it skips the test module where CuPy is missing or sees no GPU."""

import numpy as np
import pytest

import gpuknn
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.engine.scan import scan
from gpuknn.vectors import ArrayVectors
from tests import oracle

cp = pytest.importorskip("cupy", reason="CuPy is not installed")
if not cp.is_available():
    pytest.skip("CuPy sees no GPU", allow_module_level=True)

from gpuknn.engine.cuda import device as cuda  # noqa: E402
from gpuknn.engine.cuda import kernels as cuda_kernels  # noqa: E402
from gpuknn.engine.cuda import resident  # noqa: E402
from gpuknn.engine.cuda.room import Room  # noqa: E402

__all__ = [
    "FLOAT_METRICS",
    "ROW_TYPES",
    "Room",
    "assert_exact",
    "cp",
    "cuda",
    "cuda_kernels",
    "resident",
    "search_on_gpu",
]

FLOAT_METRICS = ("cosine", "ip", "l2")
ROW_TYPES = ("float16", "float32", "float64", "uint8", "int8")


def random_rows(rng: np.random.Generator, n: int, d: int, dtype: str) -> np.ndarray:
    """Rows (n, d), as different as their type allows."""
    if dtype == "uint64":
        return rng.integers(0, 2**64, (n, d), dtype=np.uint64)
    if dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, (n, d)).astype(dtype)
    return rng.standard_normal((n, d)).astype(dtype)


def small_integers(rng: np.random.Generator, n: int, d: int, dtype: str) -> np.ndarray:
    """Rows (n, d), none of them zero, with ties everywhere; sums are exact in any order and type."""
    rows = rng.integers(0 if dtype == "uint8" else -2, 3, (n, d))
    rows[~rows.any(axis=1)] = 1
    return rows.astype(dtype)


def assert_exact(rows: np.ndarray, queries: np.ndarray, k: int, metric: str, dists: str = "float32") -> None:
    ids, expected = oracle.knn(rows, queries, k, metric, dists)
    found = gpuknn.exact_knn(rows, queries, k=k, metric=metric, device="cuda", dists=dists)
    assert found.dists.dtype == dists
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.dists, expected)


def search_on_gpu(
    rows: np.ndarray,
    queries: np.ndarray,
    k: int,
    metric: str = "l2",
    number: int = 0,
    extent: range | None = None,
    floor: np.ndarray | None = None,
) -> tuple[Neighbors, Certificate]:
    search = Search(queries, k, Metric(metric), np.dtype("float32"), floor)
    return scan(ArrayVectors.of(rows, "rows"), extent or range(len(rows)), search, cuda.open_cuda(number))
