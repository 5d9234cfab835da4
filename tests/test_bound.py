"""The error bound under attack: it holds, and half of it would not."""

from collections.abc import Callable

import numpy as np
import pytest

import gpuknn
from gpuknn.engine import bound
from gpuknn.engine.cpu import device as cpu
from gpuknn.engine.cpu import int8, kernels
from gpuknn.engine.cpu.scores import Candidates, Float32Scores, Int8Scores
from gpuknn.engine.metric import Metric
from gpuknn.errors import RunError
from tests import oracle
from tests.conftest import plain_int8_product, some_int8_product

D = 128


def rounding_attack(up: bool) -> np.ndarray:
    """A vector v for which the float32 sum of v_i v_i, made term by term, is off by almost D u.

    The first term is 1.  Every other is just below (or above) half a unit in its last place, and is lost (or counts
    double) each time.
    """
    v = np.full(D, np.sqrt(bound.U * (1.01 if up else 0.99)))
    v[0] = 1.0
    return v.astype(np.float32)


def measured_share(v: np.ndarray) -> float:
    """The largest error of computed scores v.v, as a share of the proven one."""
    queries, rows = np.tile(v, (64, 1)), np.tile(v, (512, 1))
    norms = (v.astype(np.float64) ** 2).sum()
    f = bound.filter_for(Metric.IP, D, np.full(64, norms), np.full(512, norms))
    scaled = (rows * f.row_factor[:, None]).astype(np.float32), (queries * f.query_factor[:, None]).astype(np.float32)
    computed = np.matmul(scaled[1], scaled[0].T)
    exact = norms * f.row_factor[0] * f.query_factor[0]
    return float((np.abs(computed - exact) / f.error).max())


@pytest.mark.parametrize("up", [False, True])
def test_the_bound_holds_and_is_more_than_half_used(up: bool) -> None:
    assert 0.5 < measured_share(rounding_attack(up)) < 1


def hostile_rows() -> tuple[np.ndarray, np.ndarray]:
    """An epoch led by an honest row, then one with a better row whose score is computed too low by almost D u."""
    attacker = rounding_attack(up=False)
    honest = np.zeros(D, np.float32)
    honest[0] = 1 + 100 * bound.U
    rows = np.zeros((1024, D), np.float32)
    rows[:, 0] = 0.5
    rows[0], rows[700] = honest, attacker
    return rows, np.tile(attacker, (64, 1))


def nearest_of_hostile_rows(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(cpu.CpuDevice.__init__, "__defaults__", ("float32",))
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 512 * D)
    rows, queries = hostile_rows()
    return gpuknn.exact_knn(rows, queries, k=1, metric="ip").ids


def test_the_row_that_rounding_hides_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = hostile_rows()
    ids, _ = oracle.knn(rows, queries, 1, "ip", "float32")
    assert (ids == 700).all()
    assert (nearest_of_hostile_rows(monkeypatch) == 700).all()


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_with_half_the_bound_or_none_it_is_lost(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bound.gamma
    monkeypatch.setattr(bound, "gamma", lambda n, unit=bound.U: share * whole(n, unit))
    # How much of the rounding adds up depends on the order in which BLAS adds, and so on the query's place.
    assert (nearest_of_hostile_rows(monkeypatch) == 0).any()


def test_a_violated_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "gamma", lambda n, unit=bound.U: 0.0)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, D)).astype(np.float32)
    with pytest.raises(RunError, match="off by more than its proven error"):
        gpuknn.exact_knn(rows, rows[:9], k=5)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.IP, Metric.L2])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_upper_bounds_hold_for_every_pair(metric: Metric, scale: float) -> None:
    """score + bias lies between the score that the true distance deserves and that plus twice the error."""
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((400, 96)) * scale * 10 ** rng.uniform(-3, 3, (400, 1))).astype(np.float32)
    queries = (rng.standard_normal((30, 96)) * scale).astype(np.float32)
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    f = bound.filter_for(metric, 96, (q * q).sum(axis=1), (x * x).sum(axis=1))
    scores = (q * f.query_factor[:, None]).astype(np.float32) @ (x * f.row_factor[:, None]).astype(np.float32).T
    upper = (scores + f.bias).astype(np.float64)
    zero, factor = f.to_score[:, 0], f.to_score[:, 1]
    for i in range(30):
        deserved = (zero[i] - oracle.distances(rows, queries[i], metric.value)) * factor[i]
        fuzz = 1e-12 * (1 + np.abs(deserved))  # of the float64 reference
        assert (upper[i] >= deserved - fuzz).all()
        assert (upper[i] <= deserved + 2 * f.error.astype(np.float64) + fuzz).all()


def int8_scores(
    metric: Metric, rows: np.ndarray, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> tuple[bound.Filter, np.ndarray, np.ndarray, np.ndarray]:
    """The float32 filter, the proven errors of the int8 scores, (n,), their bias and those scores, (nq, n)."""
    x, q = rows.astype(np.float64), queries.astype(np.float64)

    def one_after_another(work: Callable[[slice], None], n: int) -> None:
        work(slice(0, n))

    data = metric, q, (q * q).sum(axis=1), one_after_another
    scores = Int8Scores(*data, len(rows), some_int8_product(), Float32Scores(*data))
    seen: list[tuple[np.ndarray, ...]] = []
    monkeypatch.setattr(kernels, "select_coarse", lambda sums, start, *rest: seen.append(rest))
    prepared = scores.prepare(rows, (x * x).sum(axis=1))
    block, tile = slice(0, len(q)), slice(0, len(x))
    sums = prepared.product(block, tile, np.empty(0))
    prepared.select(sums, block, tile, 0, np.empty(0), Candidates(*np.empty((4, 0))), np.empty(0))
    row_scale, row_offset, bias, tolerance, query_scale, query_offset = seen[0][:6]
    # As the kernel does it.
    out = sums.astype(np.float32) * row_scale * query_scale[:, None] + (row_offset + query_offset[:, None])
    return prepared.filter, tolerance - prepared.filter.error, bias, out


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.IP, Metric.L2])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_upper_bounds_of_int8_scores_hold_for_every_pair(
    metric: Metric, scale: float, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    rows = ((rng.standard_normal((400, 96)) + offset) * scale * 10 ** rng.uniform(-3, 3, (400, 1))).astype(np.float32)
    queries = ((rng.standard_normal((30, 96)) + offset) * scale).astype(np.float32)
    f, error, bias, scores = int8_scores(metric, rows, queries, monkeypatch)
    upper = (scores + bias).astype(np.float64)
    for i in range(30):
        deserved = (f.to_score[i, 0] - oracle.distances(rows, queries[i], metric.value)) * f.to_score[i, 1]
        fuzz = 1e-12 * (1 + np.abs(deserved))
        assert (upper[i] >= deserved - fuzz).all()
        assert (upper[i] <= deserved + 2 * (error + f.error).astype(np.float64) + fuzz).all()


def test_the_int8_bound_is_more_than_half_used_by_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, and their opposites, whose small components are all lost in rounding, in the direction of the rows."""
    query = np.full(D, 0.49 / 127, np.float32)
    query[0] = 1.0
    row = np.ones(D, np.float32)
    row[0] = 0.0
    rows, queries = np.stack([row, -row]), np.stack([query, -query])
    f, error, _, scores = int8_scores(Metric.IP, rows, queries, monkeypatch)
    for i in range(2):
        deserved = -oracle.distances(rows, queries[i], "ip") * f.to_score[i, 1]
        off = np.abs(scores[i] - deserved)
        assert (off <= error).all()
        assert (off > 0.5 * error).all()


def test_without_the_int8_bound_a_violation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "int8_product", some_int8_product)
    monkeypatch.setattr(cpu.CpuDevice.__init__, "__defaults__", ("int8",))
    monkeypatch.setattr(bound.Quantised, "error", lambda self, d, query, rows: np.zeros_like(rows))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, D)).astype(np.float32)
    with pytest.raises(RunError, match="off by more than its proven error"):
        gpuknn.exact_knn(rows, rows[:9], k=5)


def test_a_product_that_saturates_is_used_with_seven_bits() -> None:
    def saturating(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = a.reshape(len(a), -1, 2, 1).astype(np.int32) * b.reshape(1, -1, 2, b.shape[1])
        sums = np.clip(pairs.sum(axis=2), -(2**15), 2**15 - 1).sum(axis=1, dtype=np.int32)
        return sums - 128 * b.sum(axis=0, dtype=np.int32)

    assert not int8._is_exact(int8.Int8Product(saturating, 127))
    assert int8._is_exact(int8.Int8Product(saturating, 63))
    assert int8._is_exact(plain_int8_product(127))


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        bound.gamma(2**24)
