"""How four other projects read truth files and score an answer: their rules, in our words.

An answer is a list of ids for each query.  Rules that look odd are kept as they are, since files are judged by them.

- ann-benchmarks, f402b2c: https://github.com/erikbern/ann-benchmarks/blob/main/ann_benchmarks/ with distance.py,
  runner.py (a candidate's distance), results.py (what is kept of it), datasets.py, plotting/metrics.py.
- big-ann-benchmarks, 452e508: https://github.com/harsha-simhadri/big-ann-benchmarks/blob/main/benchmark/ with
  dataset_io.py, results.py, plotting/metrics.py.
- VectorDBBench, 4ea1810: https://github.com/zilliztech/VectorDBBench/blob/main/vectordb_bench/ with metric.py,
  backend/dataset.py, backend/runner/serial_runner.py.
- SISAP 2023, b8feead: https://github.com/sisap-challenges/sisap23-laion-challenge-evaluation/blob/main/eval.py
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Answers = Sequence[Sequence[int]] | np.ndarray
"""For each query its ids, nearest first."""

SISAP_SAID = ("data", "size", "algo", "buildtime", "querytime", "params")


def ann_benchmarks_recall(path: Path, answers: Answers, k: int, epsilon: float = 1e-3) -> float:
    """Share of the k candidates no farther than the k-th of `distances` plus epsilon; answers are rows of `train`.

    The distances of candidates are computed here, in the arrays' own type, and kept as float32.  Raises KeyError if
    `distance` names no metric of that suite, ValueError if an answer repeats a row or is longer than k.
    """
    with h5py.File(path, "r") as file:
        distance = ANN_BENCHMARKS_DISTANCES[file.attrs["distance"]]
        train, test = _ann_benchmarks_points(file, "train"), _ann_benchmarks_points(file, "test")
        truth = file["distances"][:]
    found = 0
    for query, farthest, rows in zip(test, truth[:, k - 1], answers, strict=True):
        if len(set(rows)) != len(rows) or len(rows) > k:
            raise ValueError(f"an answer of {len(rows)} rows repeats one, or is longer than {k}")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            there = np.array([distance(query, train[row]) for row in rows], np.float32)
        found += int(np.count_nonzero(there <= farthest + epsilon))
    return found / (k * len(truth))


def ann_benchmarks_dimension(path: Path) -> int:
    """The attribute `dimension`, which counts bits under hamming; in old files the length of a row of `train`."""
    with h5py.File(path, "r") as file:
        return int(file.attrs["dimension"]) if "dimension" in file.attrs else int(file["train"].shape[1])


def big_ann_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A truth file's ids (nq, k) int32 and distances (nq, k) float32; ValueError if its size is any other."""
    nq, k = (int(number) for number in np.fromfile(path, "<u4", 2))
    if path.stat().st_size != 8 + 8 * nq * k:
        raise ValueError(f"{path}: is not {nq} x {k} ids and as many distances")
    ids = np.fromfile(path, "<i4", nq * k, offset=8)
    dists = np.fromfile(path, "<f4", nq * k, offset=8 + 4 * nq * k)
    return ids.reshape(nq, k), dists.reshape(nq, k)


def big_ann_recall(truth: tuple[np.ndarray, np.ndarray], answers: Answers, k: int, ties: bool = True) -> float:
    """Mean share of k of the truth's first k ids and, with ties, of those within 1e-6 of the k-th that follow it.

    Distances may rise or fall.  -1 is an id like any other, and the denominator is k for every query: an answer padded
    as the truth is gets one hit for all its padding.  An answer longer than k is taken whole.
    """
    found = 0
    for ids, dists, answer in zip(*truth, answers, strict=True):
        with np.errstate(invalid="ignore"):
            others = ~(np.abs(dists[k:] - dists[k - 1]) < 1e-6)  # so that NaN, and two infinities, are no tie
        end = k + (int(np.argmax(others)) if others.any() else len(others)) if ties else k
        found += len(set(ids[:end].tolist()) & {int(one) for one in answer})
    return found / (k * len(truth[0]))


def vectordbbench_rows(path: Path, vectors: str = "emb") -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and vectors (n, d) of train.parquet or test.parquet; what `id` says is the row's only name."""
    table = _read_parquet(path, ["id", vectors])
    return table["id"].to_numpy(), np.stack(table[vectors].to_pylist())


def vectordbbench_recall(neighbors: Path, answers: Answers, k: int) -> float:
    """Mean share of k of the answers' ids that are among the first k of `neighbors_id`, to four digits.

    The i-th line is for the i-th line of test.parquet: neither file's `id` is looked at.  A repeated id counts each
    time, and the denominator is k however short the truth is.  Raises IndexError if an answer is longer than k.
    """
    truth = _read_parquet(neighbors, ["neighbors_id"])["neighbors_id"].to_pylist()
    recalls = []
    for i, answer in enumerate(answers):
        if len(answer) > k:
            raise IndexError(f"answer {i} has {len(answer)} ids, more than k = {k}")
        recalls.append(sum(int(one) in truth[i][:k] for one in answer) / k)
    return round(float(np.mean(recalls)), 4)


def sisap_recall(result: Path, gold: Path, k: int = 10) -> float:
    """Mean share of k of the gold's first k `knns` among the result's, ids counted from 1 and compared as they are.

    Raises ValueError if the result is narrower than k or answers another number of queries.
    """
    with h5py.File(result, "r") as a, h5py.File(gold, "r") as b:
        found, true = a["knns"][:], b["knns"][:]
    if k > found.shape[1] or len(found) != len(true):
        raise ValueError(f"{found.shape} neighbours are not {len(true)} x {k}")
    shared = sum(len(set(x[:k]) & set(y[:k])) for x, y in zip(found.tolist(), true.tolist(), strict=True))
    return shared / (k * len(true))


def sisap_said(result: Path) -> dict[str, Any]:
    """What a result says of itself: its root attributes or, if `size` is none of them, scalar arrays of those names."""
    with h5py.File(result, "r") as file:
        if "size" in file.attrs:
            return dict(file.attrs)
        said = {name: file[name][()] if name in file else 0 for name in SISAP_SAID}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in said.items()}


def _euclidean(a: np.ndarray, b: np.ndarray) -> float:
    return float(_length(a - b))  # of bytes this turns around below zero, there as here


def _angular(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - np.dot(a, b) / (_length(a) * _length(b)))


def _hamming(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a.astype(np.bool_) ^ b.astype(np.bool_)))


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = len(set(a.tolist()) & set(b.tolist()))
    return 1 - shared / (len(a) + len(b) - shared) if len(a) and len(b) else 1.0


def _length(a: np.ndarray) -> Any:
    return np.sum(a**2) ** 0.5


ANN_BENCHMARKS_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "euclidean": _euclidean,
    "angular": _angular,
    "hamming": _hamming,
    "jaccard": _jaccard,
}
"""All there are: no inner product.  lastfm-64-dot, the one set of that name, says angular."""


def _ann_benchmarks_points(file: h5py.File, name: str) -> Sequence[np.ndarray]:
    """The points of `train` or `test`; sparse ones lie end to end and have their lengths in `size_train`."""
    values: np.ndarray = file[name][:]
    if file.attrs.get("type", "dense") != "sparse":
        return list(values)
    return [values[a:b] for a, b in pairwise([0, *np.cumsum(file[f"size_{name}"][:])])]


def _read_parquet(path: Path, columns: list[str]) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=columns)
