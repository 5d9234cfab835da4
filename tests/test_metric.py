from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.engine.cpu import kernels as cpu_kernels
from gpuknn.engine.metric import Metric, metric_named, summation_leaves
from gpuknn.errors import InputError


@pytest.mark.parametrize("d", [1, 7, 8, 9, 15, 16, 127, 128, 129, 136, 255, 384, 768, 1000, 1025, 4096])
def test_sums_are_numpys_to_the_last_bit(d: int) -> None:
    rng = np.random.default_rng(d)
    rows = rng.standard_normal((20, d)) * 10 ** rng.uniform(-8, 8, (20, d))
    norms = np.empty(20)
    cpu_kernels.squared_norms(rows, summation_leaves(d), norms)
    assert np.array_equal(norms, (rows * rows).sum(axis=1))


def test_every_float16_is_read_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 1)
    wide = np.empty(finite.shape, np.float32)
    cpu_kernels.widen(finite, np.ones(len(finite)), wide)
    assert np.array_equal(wide.view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_kernels_number_the_metrics_as_they_are_listed() -> None:
    numbers = cpu_kernels.COSINE, cpu_kernels.IP, cpu_kernels.L2
    assert [list(Metric)[n].name for n in numbers] == ["COSINE", "IP", "L2"]


@pytest.mark.parametrize("name", ["l2", "L2", "SqEuclidean"])
def test_metrics_are_named_in_capitals_or_not(name: str) -> None:
    assert metric_named(name) is Metric.L2
    assert gpuknn.exact_knn([[0.0], [3.0]], [[1.0]], k=2, metric=name).dists.tolist() == [[1.0, 4.0]]
    ours = [Metric.IP, Metric.IP, Metric.COSINE, Metric.HAMMING]
    assert [metric_named(each) for each in ("IP", "Dot", "Cosine", "HAMMING")] == ours


@pytest.mark.parametrize("name", ["manhattan", "", None, 1, ["l2"]])
def test_what_is_no_metric_is_told_which_there_are(name: Any) -> None:
    said = r"metric.*: there are cosine, ip \(dot, inner_product\), l2 \(sqeuclidean\), hamming$"
    with pytest.raises(InputError, match=said):
        gpuknn.exact_knn(np.eye(3), k=1, metric=name)


def test_names_of_other_numbers_are_refused_in_capitals_too() -> None:
    with pytest.raises(InputError, match='metric="Euclidean": use metric="l2", which gives the squares'):
        metric_named("Euclidean")


BOOLEANS = np.random.default_rng(0).random((50, 128)) < 0.5
PACKED = np.packbits(BOOLEANS, axis=1, bitorder="little")


@pytest.mark.parametrize(
    ("rows", "metric", "said"),
    [
        (BOOLEANS, "l2", r'l2 is not defined on booleans; use metric="hamming", or numbers, .*astype\(np\.uint8\)'),
        (BOOLEANS + 0.0, "hamming", r"not defined on float64 rows; .* booleans, e\.g\. rows > 0, bits packed in bytes"),
        (PACKED.view(np.uint64), "ip", r'not defined on uint64 rows; use metric="hamming"$'),
    ],
)
def test_what_a_metric_is_not_defined_on_is_told_what_to_become(rows: np.ndarray, metric: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        gpuknn.exact_knn(rows, k=1, metric=metric)


def test_what_they_are_told_works() -> None:
    found = gpuknn.exact_knn(BOOLEANS, k=3, metric="hamming")
    assert found == gpuknn.exact_knn(PACKED.view(np.uint64), k=3, metric="hamming")
    assert found == gpuknn.exact_knn(PACKED, k=3, metric="hamming")
    assert found == gpuknn.exact_knn((BOOLEANS + 0.0) > 0, k=3, metric="hamming")
    gpuknn.exact_knn(BOOLEANS.astype(np.uint8), k=3, metric="l2")


@pytest.mark.parametrize("k", [True, None, 2.0, "5"])
def test_k_is_a_whole_number(k: Any) -> None:
    with pytest.raises(InputError, match=f"k = {k!r}: must be a whole number"):
        gpuknn.exact_knn(np.eye(3), k=k)


@pytest.mark.parametrize("threads", [0, 2.0, "5"])
def test_threads_are_a_whole_number(threads: Any) -> None:
    with pytest.raises(InputError, match=f"threads = {threads!r}: must be a whole number, at least 1"):
        gpuknn.exact_knn(np.eye(3), k=1, threads=threads)


@pytest.mark.parametrize(("rows", "metric"), [(np.eye(3), "l2"), (BOOLEANS, "hamming")])
def test_every_step_that_is_announced_is_told_to_its_end(rows: np.ndarray, metric: str) -> None:
    told: list[Any] = []
    gpuknn.exact_knn(rows, k=1, metric=metric, progress=told.append)
    steps = [event for event in told if event["event"] == "step"]
    assert [step["name"] for step in steps] == ["checking", "computing"]
    for step in steps:
        assert [event["rows"] for event in told if event["event"] in step["told_by"]][-1] == step["rows"] == len(rows)
