"""The engine against the definition, bit for bit."""

import gc
import weakref
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuknn
from gpuknn.engine.choose import open_device
from gpuknn.engine.cpu import device as cpu
from gpuknn.engine.device import Search
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Certificate, Neighbors, merge
from gpuknn.engine.scan import scan
from gpuknn.vectors import ArrayVectors
from tests import oracle
from tests.conftest import some_int8_product

FLOAT_METRICS = ("cosine", "ip", "l2")


def assert_exact(
    rows: np.ndarray, queries: np.ndarray, k: int, metric: str, dists: str = "float32", threads: int = 2
) -> None:
    ids, expected = oracle.knn(rows, queries, k, metric, dists)
    found = gpuknn.exact_knn(rows, queries, k=k, metric=metric, dists=dists, threads=threads)
    assert np.array_equal(found.ids, ids)
    assert found.dists.dtype == dists
    assert np.array_equal(found.dists, expected)


def random_rows(rng: np.random.Generator, n: int, d: int, dtype: str) -> np.ndarray:
    if dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, (n, d)).astype(dtype)
    return rng.standard_normal((n, d)).astype(dtype)


@pytest.mark.usefixtures("filter_name")
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("metric", "dtype", "query_dtype", "dists"),
    [
        *product(FLOAT_METRICS, ("float16",), ("float16", "float32"), ("float32", "float64")),
        *product(FLOAT_METRICS, ("float32", "float64", "uint8", "int8"), ("float32",), ("float32",)),
        *product(FLOAT_METRICS, ("float32", "float64"), ("float64",), ("float64",)),
    ],
)
def test_all_types_and_metrics(metric: str, dtype: str, query_dtype: str, dists: str) -> None:
    rng = np.random.default_rng(1)
    rows, queries = random_rows(rng, 500, 37, dtype), random_rows(rng, 11, 37, query_dtype)
    for k in (1, 10, 500):
        assert_exact(rows, queries, k, metric, dists)


@pytest.mark.usefixtures("filter_name")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_duplicates_and_ties(metric: str) -> None:
    rng = np.random.default_rng(2)
    copies = random_rows(rng, 40, 16, "float16")[rng.integers(0, 40, 9000)]
    assert_exact(copies, random_rows(rng, 9, 16, "float32"), 300, metric)
    one = np.repeat(random_rows(rng, 1, 16, "float16"), 5000, axis=0)
    assert_exact(one, one[:3], 100, metric)


@pytest.mark.usefixtures("filter_name")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_ties_beyond_the_room_for_candidates(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descending, then equal, similarities: every row passes, so candidates overflow again and again."""
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 2**12)
    monkeypatch.setattr(cpu, "FIRST_ROWS", 512)
    rng = np.random.default_rng(3)
    direction = rng.standard_normal(8)
    approach = np.linspace(2, 1, 6000)[:, None] * rng.standard_normal(8) + direction
    rows = np.concatenate([approach, np.repeat(approach[-1:], 6000, axis=0)]).astype(np.float32)
    assert_exact(rows, direction[None].astype(np.float32), 50, metric)


@pytest.mark.usefixtures("filter_name")
def test_rows_as_their_own_queries() -> None:
    rng = np.random.default_rng(11)
    rows = random_rows(rng, 30, 6, "float16")[rng.integers(0, 30, 900)]
    for metric in FLOAT_METRICS:
        ids, dists = oracle.knn(rows, rows, 900, metric, "float32")
        others = ids != np.arange(900)[:, None]
        found = gpuknn.exact_knn(rows, k=50, metric=metric)
        assert np.array_equal(found.ids, ids[others].reshape(900, 899)[:, :50])
        assert np.array_equal(found.dists, dists[others].reshape(900, 899)[:, :50])


@pytest.mark.usefixtures("filter_name")
def test_near_duplicates() -> None:
    rng = np.random.default_rng(4)
    centre = rng.standard_normal(384)
    rows = (centre + 1e-4 * rng.standard_normal((3000, 384))).astype(np.float32)
    for metric in FLOAT_METRICS:
        assert_exact(rows, rows[:5], 100, metric)


@pytest.mark.usefixtures("filter_name")
def test_float32_norms_from_tiny_to_huge() -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((2000, 32)) * 10.0 ** rng.uniform(-12, 12, (2000, 1))).astype(np.float32)
    queries = (rng.standard_normal((20, 32)) * 10.0 ** rng.uniform(-12, 12, (20, 1))).astype(np.float32)
    for metric in FLOAT_METRICS:
        assert_exact(rows, queries, 50, metric)


@pytest.mark.usefixtures("filter_name")
def test_float16_extremes_and_subnormals() -> None:
    rng = np.random.default_rng(6)
    bits = rng.integers(0, 2**16, (2000, 24)).astype(np.uint16).view(np.float16)
    rows = np.where(np.isfinite(bits), bits, np.float16(6e-8))
    tiny = (rng.integers(1, 5, (200, 24)) * 2.0**-24).astype(np.float16)
    for metric in FLOAT_METRICS:
        assert_exact(np.concatenate([rows, tiny]), np.concatenate([tiny[:3], rows[:3]]), 60, metric)


@pytest.mark.usefixtures("filter_name")
def test_float32_subnormals() -> None:
    rng = np.random.default_rng(7)
    rows = (rng.integers(-9, 10, (500, 6)) * 1e-45).astype(np.float32)
    rows[:, 0] = np.float32(3e-45)
    for metric in FLOAT_METRICS:
        assert_exact(rows, rows[:4], 20, metric)
        assert_exact(rows, rows[:4], 20, metric, "float64")


@pytest.mark.usefixtures("filter_name")
def test_cancellation() -> None:
    """Large components that cancel: inner products near zero of rows with large norms."""
    rng = np.random.default_rng(8)
    half = rng.standard_normal((1500, 32)) * 1e3
    rows = np.concatenate([half, -half + 1e-3 * rng.standard_normal(half.shape)], axis=1).astype(np.float32)
    queries = np.tile(rng.standard_normal((6, 32)), 2).astype(np.float32)
    for metric in FLOAT_METRICS:
        assert_exact(rows, queries, 40, metric)


@pytest.mark.usefixtures("filter_name")
@pytest.mark.parametrize("d", [1, 2, 4096])
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_dimensions(d: int, metric: str) -> None:
    rng = np.random.default_rng(d)
    rows, queries = random_rows(rng, 300, d, "float16"), random_rows(rng, 5, d, "float32")
    rows[rows == 0] = 1
    assert_exact(rows, queries, 300, metric)


@pytest.mark.usefixtures("filter_name")
def test_one_row_and_zero_vectors() -> None:
    rng = np.random.default_rng(9)
    row = random_rows(rng, 1, 5, "float16")
    for metric in FLOAT_METRICS:
        assert_exact(row, row, 1, metric)
    zeros = np.zeros((70, 5), np.float32)
    zeros[60:] = random_rows(rng, 10, 5, "float32")
    assert_exact(zeros, zeros[58:62], 65, "ip")
    assert_exact(zeros, zeros[58:62], 65, "l2")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("words", [1, 3, 16])
def test_hamming(words: int) -> None:
    rng = np.random.default_rng(words)
    sketches = rng.integers(0, 2**64, (3000, words), dtype=np.uint64)
    sketches[::3] = sketches[0]  # a thousand ties
    queries = np.concatenate([sketches[:2], rng.integers(0, 2**64, (9, words), dtype=np.uint64)])
    for k in (1, 700, 3000):
        assert_exact(sketches, queries, k, "hamming")


def test_room_that_was_never_written_is_not_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold signalling NaNs, which NumPy warns of: an error here."""
    plain = np.empty

    def full_of_signals(*args: Any, **options: Any) -> np.ndarray:
        made = plain(*args, **options)
        if made.dtype == np.float32:
            made.view(np.uint32).fill(0x7F800001)
        return made

    monkeypatch.setattr(np, "empty", full_of_signals)
    sketches = np.random.default_rng(0).integers(0, 2**64, (300, 2), dtype=np.uint64)
    floor = np.array([5.0, np.inf])  # of the first query one row passes, of the other all do
    search = Search(sketches[:2], 20, Metric.HAMMING, np.dtype(np.float32), floor)
    found, _ = scan(ArrayVectors.of(sketches, "rows"), range(300), search, open_device("cpu", 1))
    ids, dists = oracle.knn(sketches, sketches[1:2], 20, "hamming", "float32")
    assert (found.ids[0, 0], found.dists[0, 0]) == (0, 0)
    assert np.array_equal(found.ids[1:], ids)
    assert np.array_equal(found.dists[1:], dists)


@pytest.mark.parametrize(("tile", "block", "epoch", "threads"), [(7, 2, 1, 1), (64, 5, 1, 2), (512, 1024, 2**25, 3)])
def test_the_answer_does_not_depend_on_the_pieces(
    tile: int, block: int, epoch: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "TILE_ROWS", tile)
    monkeypatch.setattr(cpu, "BLOCK_QUERIES", block)
    monkeypatch.setattr(cpu, "EPOCH_VALUES", epoch)
    rng = np.random.default_rng(10)
    rows = random_rows(rng, 30, 12, "float16")[rng.integers(0, 30, 1000)]
    assert_exact(rows, random_rows(rng, 23, 12, "float32"), 45, "cosine", threads=threads)


@pytest.mark.usefixtures("small_pieces")
@given(data=st.data(), metric=st.sampled_from(FLOAT_METRICS), dists=st.sampled_from(["float32", "float64"]))
@settings(max_examples=60, deadline=None)
def test_small_integers_with_ties_everywhere(data: st.DataObject, metric: str, dists: str) -> None:
    n, nq, d = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows, queries = (rng.integers(-2, 3, (m, d)).astype(np.float16) for m in (n, nq))
    if metric == "cosine":
        rows[~rows.any(axis=1)], queries[~queries.any(axis=1)] = 1, 1
    assert_exact(rows, queries, data.draw(st.integers(1, n)), metric, dists)


@given(cuts=st.sets(st.integers(1, 399), max_size=6), with_floor=st.booleans(), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_shards_with_or_without_a_floor_merge_to_the_whole(cuts: set[int], with_floor: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 25, 6, "float16")[rng.integers(0, 25, 400)]
    queries, k = random_rows(rng, 5, 6, "float32"), 30
    ids, dists = oracle.knn(rows, queries, k, "l2", "float32")
    # As low as a floor may be: the k-th distance itself.
    floor = dists[:, -1].astype(np.float64) if with_floor else None
    search = Search(queries, k, Metric.L2, np.dtype("float32"), floor)
    edges = [0, *sorted(cuts), 400]
    parts: list[Neighbors] = []
    whole = Certificate("float32 scores, float64 refinement", 0.0, 0, 1.0)
    for a, b in pairwise(edges):
        part, certificate = scan(ArrayVectors.of(rows, "rows"), range(a, b), search, cpu.CpuDevice(2))
        parts.append(part)
        whole += certificate
    merged = merge(parts, k)
    assert np.array_equal(merged.ids, ids)
    assert np.array_equal(merged.dists, dists)
    assert whole.pairs_refined >= 5 * k
    assert 0 <= whole.smallest_margin <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("filter_name")
@pytest.mark.skipif(not oracle.SHARED.exists(), reason="needs the shared data")
def test_sift_and_clip_rows() -> None:
    sift = np.load(oracle.SHARED / "data/bigann/bigann10k_u8.npy")
    assert_exact(sift, sift[::250], 100, "l2")
    clip = np.load(oracle.SHARED / "data/clip/laion_clip_l14_refs1024_fp16.npy")
    assert_exact(clip, clip, 100, "cosine")


@pytest.mark.usefixtures("filter_name")
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_float64_vectors_near_the_end_of_range(metric: str) -> None:
    rng = np.random.default_rng(12)
    rows, queries = rng.standard_normal((300, 5)), rng.standard_normal((7, 5))
    assert_exact(rows * 1e-156, queries * 1e-156, 20, metric, "float64")
    assert_exact(rows * 1e150, queries * 2.0**-537, 20, metric, "float64")
    assert_exact(rows * 1e-120, queries * 1e-190, 20, metric, "float64")


@pytest.mark.parametrize("k", [3, 90])
def test_filters_take_turns_without_a_trace(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default float32 begins, int8 is tried, and the cheaper goes on, epoch by epoch."""
    monkeypatch.setattr(cpu, "int8_product", some_int8_product)
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 2**15)
    rng = np.random.default_rng(13)
    rows, queries = random_rows(rng, 6000, 64, "float16"), random_rows(rng, 70, 64, "float32")
    assert_exact(rows, queries, k, "cosine")
    search = Search(queries, k, Metric.COSINE, np.dtype("float32"))
    certificate = scan(ArrayVectors.of(rows, "rows"), range(6000), search, cpu.CpuDevice(2))[1]
    assert certificate.method.startswith("float32 scores, float64 refinement, int8 scores")


def test_an_error_in_a_thread_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(cpu.CpuScan, "_settle", fail)
    monkeypatch.setattr(cpu, "BLOCK_QUERIES", 2)
    rows = np.eye(30, dtype=np.float32)
    with pytest.raises(MemoryError, match="no room"):
        gpuknn.exact_knn(rows, rows, k=3, threads=2)


def test_a_processor_as_those_see_it_who_drive_it() -> None:
    device = open_device("cpu", threads=2)
    assert (device.kind, device.units, device.resources) == ("cpu", 2, {})
    assert [device.here(threads, number=5).units for threads in (1, 2, 3)] == [2, 2, 3]
    assert cpu.CpuDevice(1, "int8").here(4, 0) == cpu.CpuDevice(4, "int8")
    rows = random_rows(np.random.default_rng(15), 300, 70, "float16")
    with device.begin(Search(rows[:9], 3, Metric.L2, np.dtype("float32")), rows.dtype) as search:
        for run in search.epochs(range(300)):
            search.feed_resident(rows[run.start : run.stop], run.start)
        found, _ = search.result()
    assert np.array_equal(found.ids, oracle.knn(rows, rows[:9], 3, "l2", "float32")[0])
    assert all(spent > 0 for spent in search.seconds.values())
    assert set(search.seconds) == {"converting", "product", "select", "refine"}


@pytest.mark.parametrize(
    ("metric", "dtype", "queries", "longest"),
    [
        (Metric.COSINE, "float32", 100, 85 * 512),
        (Metric.COSINE, "float32", 24_000, 10 * 512),
        (Metric.COSINE, "float32", 50_000, 4096),
        (Metric.HAMMING, "uint64", 5_000, 38 * 512),
    ],
)
def test_an_interrupt_waits_for_seconds_at_most(metric: Metric, dtype: str, queries: int, longest: int) -> None:
    """An epoch is 2e11 operations of each core (2 x 24,000 x 5,120 x 768 = 1.9e11), but at least 4,096 rows."""
    search = Search(np.ones((queries, 16 if metric is Metric.HAMMING else 768), dtype), 3, metric, np.dtype("f4"))
    with cpu.CpuDevice(1).begin(search, np.dtype(dtype)) as state:
        runs = state.epochs(range(7, 200_007))
    assert max(map(len, runs)) == longest
    assert [7, *(run.stop for run in runs)] == [*(run.start for run in runs), 200_007]


@pytest.mark.usefixtures("filter_name")
def test_a_search_leaves_nothing_behind() -> None:
    """Its memory is free for the next one at once, not when Python looks for circles of references."""
    rows = random_rows(np.random.default_rng(14), 300, 70, "float32")
    gc.collect()
    gc.disable()
    try:
        with cpu.CpuDevice(2).begin(Search(rows[:65], 3, Metric.L2, np.dtype("float32")), rows.dtype) as search:
            left = weakref.ref(search)
            for run in search.epochs(range(300)):
                search.feed(rows[run.start : run.stop], run.start)
        del search
        assert left() is None
    finally:
        gc.enable()
