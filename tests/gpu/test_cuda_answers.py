"""The GPU's answers against the definition, bit for bit."""

from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np
import pytest

import gpuknn
from gpuknn.engine.neighbors import merge
from tests import oracle
from tests.gpu.support import (
    FLOAT_METRICS,
    ROW_TYPES,
    assert_exact,
    cp,
    random_rows,
    search_on_gpu,
    small_integers,
)

Pieces = Callable[..., None]


@pytest.fixture(params=["pool", "fresh"])
def allocator(request: pytest.FixtureRequest) -> Iterator[None]:
    """With CuPy's pool, as always, and without, where each array has memory to which nothing was written."""
    if request.param == "fresh":
        cp.get_default_memory_pool().free_all_blocks()  # what it keeps is not free for others
        cp.cuda.set_allocator(None)
    yield
    cp.cuda.set_allocator(cp.get_default_memory_pool().malloc)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
@pytest.mark.parametrize("dtype", ROW_TYPES)
def test_all_types_and_metrics(metric: str, dtype: str, rng: np.random.Generator) -> None:
    for query_dtype, dists in product(ROW_TYPES, ("float32", "float64")):
        make_rows = small_integers if rng.integers(2) else random_rows
        n, nq, d = (int(rng.integers(*limits)) for limits in ((20, 60), (1, 7), (3, 40)))
        rows, queries = make_rows(rng, n, d, dtype), make_rows(rng, nq, d, query_dtype)
        assert_exact(rows, queries, int(rng.integers(1, n + 1)), metric, dists)


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_float32_subnormals(metric: str, rng: np.random.Generator) -> None:
    """Rows that hold them, and distances that are stored as them: CuPy has kernels compiled to make them zero."""
    rows = (rng.integers(-9, 10, (500, 6)) * 1e-45).astype(np.float32)
    queries = rng.standard_normal((4, 6)).astype(np.float32)
    assert_exact(rows, queries, 400, metric)
    assert_exact(rows, queries, 400, metric, "float64")
    rows, queries = (rng.integers(-9, 10, (m, 6)).astype(np.float32) * np.float32(2**-73) for m in (500, 4))
    assert_exact(rows, queries, 400, metric)  # distances are multiples of 2^-146
    rows = np.repeat(random_rows(rng, 1, 6, "float64"), 300, axis=0)
    rows[np.arange(300), rng.integers(0, 6, 300)] *= 1 + 2.0**-52
    assert_exact(rows * 1e-6, rows[:3] * 1e-6, 200, metric)  # squares of differences are some 1e-44


@pytest.mark.usefixtures("small_pieces", "allocator")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_ties_at_rank_k(metric: str, rng: np.random.Generator) -> None:
    rows, queries = small_integers(rng, 400, 3, "float16"), small_integers(rng, 5, 3, "float32")
    for k in (1, 30, 400):
        assert_exact(rows, queries, k, metric)


@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_equal_rows_are_refined_before_the_epoch_ends(metric: str, rng: np.random.Generator, pieces: Pieces) -> None:
    pieces(epoch=2**15, tile=64, sweep=128, spare=8)
    rows = np.repeat(random_rows(rng, 2, 8, "float16"), [700, 1300], axis=0)
    rows = rows[rng.permutation(len(rows))]
    k = 20
    assert_exact(rows, rows[:3], k, metric)
    _, certificate = search_on_gpu(rows, rows[:1], k, metric)
    assert certificate.pairs_refined > 2 * k + 8 + 128  # more than there is room for at any one time


@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_ever_nearer_rows_are_cut_before_the_epoch_ends(metric: str, rng: np.random.Generator, pieces: Pieces) -> None:
    """Ascending similarities: every row passes."""
    pieces(epoch=2**15, tile=64, sweep=64, spare=40)
    direction = random_rows(rng, 1, 16, "float32")
    rows = (direction + np.linspace(3, 0.5, 900)[:, None] * random_rows(rng, 1, 16, "float32")).astype(np.float32)
    assert_exact(rows, direction, 7, metric)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 129])
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_as_many_neighbours_as_rows(n: int, metric: str, rng: np.random.Generator) -> None:
    dtype = str(rng.choice(["float16", "float32"]))
    assert_exact(random_rows(rng, n, 9, dtype), random_rows(rng, 4, 9, "float32"), n, metric)


@pytest.mark.parametrize("d", [1, 7, 130, 300])
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_dimensions(d: int, metric: str, rng: np.random.Generator, pieces: Pieces) -> None:
    """Sums of several leaves; rows of which few fit an epoch."""
    pieces(epoch=2**13, tile=32, sweep=32, spare=8)
    for dtype in ("float16", "float32", "float64"):
        rows, queries = random_rows(rng, 120, d, dtype), random_rows(rng, 5, d, "float32")
        rows[rows == 0] = 1
        assert_exact(rows, queries, 11, metric)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_float16_sums_past_its_range(metric: str, rng: np.random.Generator) -> None:
    rows = (rng.integers(-8, 9, (200, 24)) * 8000).astype(np.float16)
    rows[:, 0] = 65504
    assert_exact(rows, rows[:5], 30, metric)
    assert_exact(rows, rows[:5].astype(np.float32) * 1e6, 30, metric)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_float16_extremes_and_subnormals(metric: str, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2**16, (200, 24)).astype(np.uint16).view(np.float16)
    rows = np.where(np.isfinite(bits), bits, np.float16(6e-8))
    tiny = (rng.integers(1, 5, (50, 24)) * 2.0**-24).astype(np.float16)
    assert_exact(np.concatenate([rows, tiny]), np.concatenate([tiny[:3], rows[:3]]), 60, metric)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_norms_from_tiny_to_huge(metric: str, rng: np.random.Generator) -> None:
    rows, queries = (
        (rng.standard_normal((m, 32)) * 10.0 ** rng.uniform(-12, 12, (m, 1))).astype(np.float32) for m in (200, 6)
    )
    assert_exact(rows, queries, 25, metric)
    assert_exact(rows.astype(np.float64), queries, 25, metric, "float64")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_near_duplicates(metric: str, rng: np.random.Generator) -> None:
    """Nearer to each other than the filter can tell, so that it must let all of them through."""
    rows = (rng.standard_normal(48) + 1e-5 * rng.standard_normal((300, 48))).astype(np.float32)
    assert_exact(rows, rows[:4], 40, metric)


@pytest.mark.usefixtures("small_pieces", "allocator")
@pytest.mark.parametrize("words", [1, 3, 40])
def test_hamming(words: int, rng: np.random.Generator) -> None:
    sketches = random_rows(rng, 130, words, "uint64")
    sketches[::3] = sketches[0]
    queries = np.concatenate([sketches[:2], random_rows(rng, 31, words, "uint64")])
    for k in (1, 130):
        assert_exact(sketches, queries, k, "hamming", str(rng.choice(["float32", "float64"])))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("metric", [*FLOAT_METRICS, "hamming"])
def test_rows_as_their_own_queries(metric: str, rng: np.random.Generator) -> None:
    few = random_rows(rng, 30, 6, "uint64") if metric == "hamming" else small_integers(rng, 30, 6, "float16")
    rows = few[rng.integers(0, 30, 120)]
    ids, dists = oracle.knn(rows, rows, 120, metric, "float32")
    others = ids != np.arange(120)[:, None]
    for k in (20, 119):
        found = gpuknn.exact_knn(rows, k=k, metric=metric, device="cuda")
        assert np.array_equal(found.ids, ids[others].reshape(120, 119)[:, :k])
        assert np.array_equal(found.dists, dists[others].reshape(120, 119)[:, :k])


@pytest.mark.usefixtures("small_pieces", "allocator")
@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_shards_merge_to_the_whole(floored: bool, metric: str, rng: np.random.Generator) -> None:
    rows = random_rows(rng, 25, 6, "float16")[rng.integers(0, 25, 400)]
    queries, k = random_rows(rng, 5, 6, "float32"), 30
    ids, dists = oracle.knn(rows, queries, k, metric, "float32")
    floor = dists[:, -1].astype(np.float64) if floored else None  # as low as it may be
    edges = [0, *sorted(rng.choice(np.arange(1, 400), 3, replace=False)), 400]
    parts = [search_on_gpu(rows, queries, k, metric, 0, range(*edge), floor) for edge in pairwise(edges)]
    merged = merge([part for part, _ in parts], k)
    assert np.array_equal(merged.ids, ids)
    assert np.array_equal(merged.dists, dists)
    assert all(0 <= certificate.smallest_margin <= 1 for _, certificate in parts)
    assert sum(certificate.pairs_refined for _, certificate in parts) >= 5 * k


@pytest.mark.parametrize("metric", [*FLOAT_METRICS, "hamming"])
def test_the_same_bytes_as_the_cpu(metric: str, rng: np.random.Generator) -> None:
    d, dtype = (4, "uint64") if metric == "hamming" else (100, "float32")
    rows, queries = random_rows(rng, 1500, d, dtype), random_rows(rng, 20, d, dtype)
    here, there = (
        gpuknn.exact_knn(rows, queries, k=40, metric=metric, device=device, dists="float64")
        for device in ("cuda", "cpu")
    )
    assert here.ids.tobytes() == there.ids.tobytes()
    assert here.dists.tobytes() == there.dists.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_same_bytes_from_other_pieces(dtype: str, rng: np.random.Generator, pieces: Pieces) -> None:
    rows, queries = random_rows(rng, 30, 12, dtype)[rng.integers(0, 30, 150)], random_rows(rng, 7, 12, "float32")
    assert_exact(rows, queries, 45, "cosine")
    for sizes in ((1, 16, 16, 4), (2**9, 4, 8, 0), (2**11, 1, 1, 1), (2**11, 50, 100, 300), (2**20, 7, 21, 20)):
        pieces(*sizes)
        assert_exact(rows, queries, 45, "cosine")
