"""The rules in `peers.py` on cases small enough to know the answer by hand, and on files that gpuknn writes."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from gpuknn.engine.neighbors import Neighbors
from gpuknn.gold import write_gold
from tests.oracle import knn
from tests.peers import (
    ann_benchmarks_dimension,
    ann_benchmarks_recall,
    big_ann_recall,
    big_ann_truth,
    sisap_recall,
    sisap_said,
    vectordbbench_recall,
    vectordbbench_rows,
)

needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow")
LINE = np.array([[0], [1], [2], [4], [8]], np.float32)
"""Points on a line; the distances from 0 are their places."""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ann_file(distance: str, distances: Any, train: np.ndarray = LINE, test: Any = ((0,),), **attributes: Any) -> Path:
    with h5py.File("set.hdf5", "w") as file:
        file["train"], file["test"] = train, np.array(test, train.dtype)
        file["distances"] = np.array(distances, float)
        file.attrs.update({"distance": distance, **attributes})
    return Path("set.hdf5")


def test_ann_benchmarks_counts_by_distance() -> None:
    path = ann_file("euclidean", [[0, 1, 2]])
    assert ann_benchmarks_recall(path, [[0, 1, 2]], 3) == 1.0
    assert ann_benchmarks_recall(path, [[0, 3, 4]], 3) == 1 / 3
    assert ann_benchmarks_recall(path, [[2, 4]], 3) == 1 / 3  # what is missing is infinitely far
    assert ann_benchmarks_recall(path, [[]], 3) == 0.0
    assert ann_benchmarks_recall(path, [[0, 1]], 2) == 1.0
    with pytest.raises(ValueError, match="repeats"):
        ann_benchmarks_recall(path, [[0, 1, 1]], 3)
    with pytest.raises(ValueError, match="longer"):
        ann_benchmarks_recall(path, [[0, 1, 2]], 2)


def test_ann_benchmarks_forgives_a_thousandth() -> None:
    near = np.array([[0], [1.0009], [1.0011]], np.float32)
    path = ann_file("euclidean", [[0, 1]], near)
    assert ann_benchmarks_recall(path, [[0, 1]], 2) == 1.0
    assert ann_benchmarks_recall(path, [[0, 2]], 2) == 0.5
    assert ann_benchmarks_recall(path, [[0, 1]], 2, epsilon=0) == 0.5


def test_squares_among_roots_are_the_fault_that_it_cannot_see() -> None:
    """Of a file with squares the farthest rows look near if distances are above 1, and the nearest far if below."""
    path = ann_file("euclidean", [[0, 1, 4, 16, 64]])
    assert ann_benchmarks_recall(path, [[4, 3, 2, 1, 0]], 5) == 1.0
    path = ann_file("euclidean", [[0, 1, 4]])
    assert ann_benchmarks_recall(path, [[2, 3]], 3) == 2 / 3
    path = ann_file("euclidean", [[0.01, 0.01]], np.array([[0.1], [-0.1]], np.float32))
    assert ann_benchmarks_recall(path, [[0, 1]], 2) == 0.0


def test_ann_benchmarks_angular_and_hamming() -> None:
    train = np.array([[2, 0], [1, 1], [0, 3], [-1, 0]], np.float32)
    path = ann_file("angular", [[0, 1 - 0.5**0.5, 1]], train, [[1, 0]])
    assert ann_benchmarks_recall(path, [[0, 1, 2]], 3) == 1.0
    assert ann_benchmarks_recall(path, [[0, 1, 3]], 3) == 2 / 3
    bits = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], bool)
    path = ann_file("hamming", [[0.25, 0.5]], bits, [[0, 0, 0, 0]], dimension=4)
    assert ann_benchmarks_recall(path, [[0, 1]], 2) == 1.0
    assert ann_benchmarks_recall(path, [[0, 2]], 2) == 0.5
    assert ann_benchmarks_dimension(path) == 4


def test_ann_benchmarks_takes_a_word_of_bits_for_one_bit() -> None:
    words = np.array([[1, 1], [2**63, 3], [7, 9]], np.uint64)
    path = ann_file("hamming", [[0, 0]], words, [[5, 6]])
    assert ann_benchmarks_recall(path, [[1, 2]], 2) == 1.0
    assert ann_benchmarks_dimension(path) == 2


def test_ann_benchmarks_computes_in_the_files_own_type() -> None:
    """Bytes turn around at 256, and half precision ends at 65,504: wider rows are told apart."""
    far = np.array([[255], [16], [1]])
    path = ann_file("euclidean", [[1]], far.astype(np.uint8), [[0]])
    assert [ann_benchmarks_recall(path, [[row]], 1) for row in range(3)] == [1.0, 1.0, 1.0]
    path = ann_file("euclidean", [[1]], far.astype(np.float32), [[0]])
    assert [ann_benchmarks_recall(path, [[row]], 1) for row in range(3)] == [0.0, 0.0, 1.0]
    path = ann_file("euclidean", [[300]], np.array([[300]], np.float16), [[0]])
    assert ann_benchmarks_recall(path, [[0]], 1) == 0.0
    path = ann_file("euclidean", [[300]], np.array([[300]], np.float32), [[0]])
    assert ann_benchmarks_recall(path, [[0]], 1) == 1.0


def test_ann_benchmarks_sets_of_integers() -> None:
    with h5py.File("set.hdf5", "w") as file:
        file["train"], file["size_train"] = [1, 2, 3, 3, 4, 9], [3, 2, 1]
        file["test"], file["size_test"] = [1, 2, 4], [3]
        file["distances"] = [[1 - 2 / 4, 1 - 1 / 4]]
        file.attrs.update({"distance": "jaccard", "type": "sparse", "dimension": 10})
    assert ann_benchmarks_recall(Path("set.hdf5"), [[0, 1]], 2) == 1.0
    assert ann_benchmarks_recall(Path("set.hdf5"), [[0, 2]], 2) == 0.5


@pytest.mark.parametrize("name", ["ip", "dot", "l2", "cosine"])
def test_ann_benchmarks_has_four_metrics(name: str) -> None:
    with pytest.raises(KeyError):
        ann_benchmarks_recall(ann_file(name, [[0]]), [[0]], 1)


def test_big_ann_reads_ids_and_distances_only_together() -> None:
    ids, dists = np.array([[3, 1], [-1, 7]], "<i4"), np.array([[9, 8], [0.5, 2]], "<f4")
    header = np.array([2, 2], "<u4").tobytes()
    Path("gt.bin").write_bytes(header + ids.tobytes() + dists.tobytes())
    there = big_ann_truth(Path("gt.bin"))
    assert np.array_equal(there[0], ids)
    assert np.array_equal(there[1], dists)
    Path("ids.ibin").write_bytes(header + ids.tobytes())
    with pytest.raises(ValueError, match="as many distances"):
        big_ann_truth(Path("ids.ibin"))


def test_big_ann_counts_ties_past_k() -> None:
    truth = np.array([[10, 11, 12, 13]]), np.array([[0, 1, 1 + 5e-7, 2]], np.float32)
    assert big_ann_recall(truth, [[10, 11]], 2) == 1.0
    assert big_ann_recall(truth, [[10, 12]], 2) == 1.0
    assert big_ann_recall(truth, [[10, 12]], 2, ties=False) == 0.5
    assert big_ann_recall(truth, [[10, 13]], 2) == 0.5
    assert big_ann_recall(truth, [[13, 12, 11, 10]], 4) == 1.0
    assert big_ann_recall(truth, [[12, 11, 10]], 2) == 1.5  # an answer that is too long is not cut


def test_big_ann_takes_largest_floats_for_ties_and_infinities_not() -> None:
    ids = np.array([[10, 11, 12]])
    largest = np.finfo(np.float32).max
    assert big_ann_recall((ids, np.array([[1, largest, largest]], np.float32)), [[10, 12]], 2) == 1.0
    assert big_ann_recall((ids, np.array([[1, np.inf, np.inf]], np.float32)), [[10, 12]], 2) == 0.5


def test_big_ann_does_not_mind_which_way_distances_go() -> None:
    """Inner products are positive and fall; nothing but nearness to the k-th matters."""
    truth = np.array([[10, 11, 12, 13]]), np.array([[5, 4, 4, 1]], np.float32)
    assert big_ann_recall(truth, [[10, 11]], 2) == 1.0
    assert big_ann_recall(truth, [[10, 12]], 2) == 1.0
    assert big_ann_recall(truth, [[11, 13]], 2) == 0.5


def test_big_ann_padding() -> None:
    """The denominator stays k; padding that meets padding is one hit, however much there is."""
    truth = np.array([[10, 11, -1, -1]]), np.array([[1, 2, np.inf, np.inf]], np.float32)
    assert big_ann_recall(truth, [[10, 11]], 4) == 0.5
    assert big_ann_recall(truth, [[10, 11, -1, -1]], 4) == 0.75
    assert big_ann_recall(truth, [[-1, -1, -1, -1]], 4) == 0.25


@needs_pyarrow
def test_vectordbbench() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1_000_001, 1_000_000], "emb": [[1.0, 0.0], [0.0, 1.0]]}), "train.parquet")
    ids, rows = vectordbbench_rows(Path("train.parquet"))
    assert ids.tolist() == [1_000_001, 1_000_000]
    assert rows.tolist() == [[1, 0], [0, 1]]

    truth = Path("neighbors.parquet")
    pq.write_table(pa.table({"id": [1, 0], "neighbors_id": [[5, 6, 7], [8, 9, 4]]}), truth)
    assert vectordbbench_recall(truth, [[5, 6], [8, 9]], 2) == 1.0  # by place: the lines' ids are not looked at
    assert vectordbbench_recall(truth, [[8, 9], [5, 6]], 2) == 0.0
    assert vectordbbench_recall(truth, [[7, 6], [9, 1]], 2) == 0.5
    assert vectordbbench_recall(truth, [[5, 5, 5], [0, 1, 2]], 3) == 0.5  # repeated ids count each time
    assert vectordbbench_recall(truth, [[5, 6, 7], [0, 1, 2]], 4) == 0.375
    with pytest.raises(IndexError):
        vectordbbench_recall(truth, [[5, 6, 7], [0, 1, 2]], 2)


def test_sisap() -> None:
    for name, ids in (("gold.h5", [[1, 2, 3], [4, 5, 6]]), ("result.h5", [[3, 1, 9], [7, 8, 4]])):
        with h5py.File(name, "w") as file:
            file["knns"] = np.array(ids, np.int32)
    assert sisap_recall(Path("result.h5"), Path("gold.h5"), 3) == 3 / 6
    assert sisap_recall(Path("result.h5"), Path("gold.h5"), 2) == 1 / 4
    with pytest.raises(ValueError, match="not 2 x 4"):
        sisap_recall(Path("result.h5"), Path("gold.h5"), 4)


def test_sisap_results_of_python_and_of_julia() -> None:
    with h5py.File("python.h5", "w") as file:
        file.attrs.update({"algo": "a", "size": "100K", "querytime": 2.5})
    with h5py.File("julia.h5", "w") as file:
        file["algo"], file["size"], file["querytime"] = np.bytes_(b"a"), np.bytes_(b"100K"), 2.5
    assert sisap_said(Path("python.h5")) == {"algo": "a", "size": "100K", "querytime": 2.5}
    said = sisap_said(Path("julia.h5"))
    assert said == {"data": 0, "size": "100K", "algo": "a", "buildtime": 0, "querytime": 2.5, "params": 0}


K, ROWS, NQ = 10, 200, 30


def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, queries, exact ids and distances under l2, and ids at random."""
    rng = np.random.default_rng(12)
    rows, queries = rng.normal(size=(ROWS, 6)).astype("f4"), rng.normal(size=(NQ, 6)).astype("f4")
    ids, dists = knn(rows, queries, K, "l2", "float32")
    return rows, queries, ids, dists, np.stack([rng.permutation(ROWS)[:K] for _ in range(NQ)])


def by_big_ann(found: np.ndarray) -> float:
    assert main(["convert", "gold.h5", "gt.bin", "--quiet"]) == 0
    return big_ann_recall(big_ann_truth(Path("gt.bin")), found, K)


def by_vectordbbench(found: np.ndarray) -> float:
    assert main(["convert", "gold.h5", "neighbors.parquet", "--quiet"]) == 0
    return vectordbbench_recall(Path("neighbors.parquet"), found, K)


def by_sisap(found: np.ndarray) -> float:
    write_gold("result.h5", Neighbors(found, np.zeros(found.shape, np.float32)))
    return sisap_recall(Path("result.h5"), Path("gold.h5"), K)


RULES = [by_big_ann, pytest.param(by_vectordbbench, marks=needs_pyarrow), by_sisap]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["exact", "random"])
def test_our_gold_by_their_rules(rule: Callable[[np.ndarray], float], kind: str) -> None:
    _, _, ids, dists, random = answers()
    write_gold("gold.h5", Neighbors(ids, dists), attributes={"metric": "l2"})
    assert rule(ids) == 1.0 if kind == "exact" else 0.02 < rule(random) < 0.10


def test_ann_benchmarks_rules_tell_the_exact_answer_from_a_random_one() -> None:
    rows, queries, ids, dists, random = answers()
    path = ann_file("euclidean", np.sqrt(dists, dtype=float), rows, queries)
    assert ann_benchmarks_recall(path, ids, K) == 1.0
    assert 0.02 < ann_benchmarks_recall(path, random, K) < 0.10
