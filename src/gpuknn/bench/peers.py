"""Other libraries' exact search, each as its users would call it, on a float32 copy in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError, pip_install

Search = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """A library beside which the engine is timed."""

    name: str
    prepare: Callable[[np.ndarray, np.ndarray, Metric, int], Search]
    """Rows, queries, metric and k to a search; what is done here is not timed."""


def installed_peers(names: str | None) -> list[Peer]:
    """The peers asked for by name, separated by commas, or all that are installed and have a use here.

    Raises InputError where one is unknown or not installed.
    """
    if names is None:
        return [peer for peer in PEERS if find_spec(peer.name)]
    known = {peer.name: peer for peer in PEERS}
    chosen = [name for name in names.split(",") if name]
    for name in chosen:
        if name not in known:
            raise InputError(f"--peers {name}: there are {', '.join(known)}")
        if not find_spec(name):
            raise InputError(f"--peers {name}: is not installed; install it with: {pip_install('bench')}")
    return [known[name] for name in chosen]


def _faiss(rows: np.ndarray, queries: np.ndarray, metric: Metric, k: int) -> Search:
    import faiss

    if metric is Metric.HAMMING:
        index = faiss.IndexBinaryFlat(64 * rows.shape[1])
        index.add(rows.view(np.uint8))
        return lambda: index.search(queries.view(np.uint8), k)
    x, q = _wide(rows, metric), _wide(queries, metric)
    kind = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    return lambda: faiss.knn(q, x, k, metric=kind)


def _sklearn(rows: np.ndarray, queries: np.ndarray, metric: Metric, k: int) -> Search:
    from sklearn.neighbors import NearestNeighbors

    if metric not in (Metric.L2, Metric.COSINE):
        raise InputError(f"--peers sklearn: does not know {metric.value}; leave it out")
    # Of normalised vectors the Euclidean order is that of the cosine, and much faster there.
    index = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(_wide(rows, metric))
    q = _wide(queries, metric)
    return lambda: index.kneighbors(q)


def _usearch(rows: np.ndarray, queries: np.ndarray, metric: Metric, k: int) -> Search:
    from usearch.index import MetricKind, search

    kinds: dict[Metric, Any] = {Metric.L2: MetricKind.L2sq, Metric.COSINE: MetricKind.Cos, Metric.IP: MetricKind.IP}
    if metric not in kinds:
        raise InputError(f"--peers usearch: is not set up for {metric.value}; leave it out")
    x, q = _wide(rows, metric), _wide(queries, metric)
    return lambda: search(x, q, k, metric=kinds[metric], exact=True)


def _wide(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """A float32 copy, normalised under cosine."""
    wide = rows.astype(np.float32)
    if metric is Metric.COSINE:
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


PEERS = Peer("faiss", _faiss), Peer("sklearn", _sklearn), Peer("usearch", _usearch)  # named as their modules are
