"""Launches for `sanitize` (see README.md) of every kernel in kernels.cu; NumPy says what must come of each."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from gpuknn.engine.bound import ROUNDING, Filter, Halved, filter_for, power_of_two_below
from gpuknn.engine.metric import Metric, summation_leaves
from gpuknn.engine.projecting import PLAIN
from tests.gpu.tools import flat_parameters
from tests.project.rules import bits_by_rule, unit_by_rule

BLOCK = (256,)
Launch = tuple[str, tuple[int, ...], tuple[int], tuple, Callable[..., bool | None]]


def cases() -> Iterator[Launch]:
    """Name, grid, block, arguments and check of each launch."""
    rng = np.random.default_rng(1)
    yield from (squared_norms(rng, dtype, m, d) for dtype, m, d in NORMS)
    yield begin_epoch(rng)
    yield from (select_passing(rng, *shape) for shape in ((1, 1, 1), (3, 75, 1), (5, 600, 2)))
    yield from (hamming_scores(rng, *shape) for shape in ((1, 1, 1), (37, 70, 3), (5, 33, 40)))
    yield from (unit_halves(rng, m, d) for m, d in ((1, 1), (70, 7), (9, 100)))
    yield from (compare_references(rng, *each) for each in COMPARED)
    for dtype, metric, d, ties in SETTLED:
        for most in (0, 40):
            yield settle(rng, dtype, metric, d, most, ties)


NORMS = [("float16", 70, 7), ("float32", 33, 300), ("float64", 3, 130), ("uint8", 40, 1), ("int8", 1, 64)]
COMPARED = [
    *(("float16", 3, 7, 64, True), ("float32", 5, 130, 128, False), ("float64", 2, 9, 192, True)),
    *(("uint8", 1, 1, 64, False), ("int8", 4, 20, 64, True)),
]
SETTLED = [
    ("float16", Metric.COSINE, 130, False),
    ("float16", Metric.IP, 3, True),
    ("float32", Metric.L2, 37, False),
    ("float64", Metric.COSINE, 9, False),
    ("uint8", Metric.L2, 2, True),
    ("int8", Metric.IP, 16, False),
    ("uint64", Metric.HAMMING, 1, True),
]

SETTLE_CHANGES = (
    *("Found_threshold", "Found_held", "Found_score", "Found_row"),
    *("Kept_dists", "Kept_ids", "Kept_filled"),
)


def random_rows(rng: np.random.Generator, n: int, d: int, dtype: str, ties: bool = False) -> np.ndarray:
    if dtype == "uint64":
        return rng.integers(0, 2**12 if ties else 2**64, (n, d), dtype=np.uint64)
    if ties or dtype.endswith("int8"):
        return rng.integers(1, 4 if ties else 100, (n, d)).astype(dtype)
    return rng.standard_normal((n, d)).astype(dtype)


def on_device(rows: np.ndarray) -> np.ndarray:
    """Rows as sanitize takes them; kernels.cu reads float16 as bits."""
    return rows.view(np.uint16) if rows.dtype == np.float16 else rows


def norms_of(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return (wide * wide).sum(axis=1)


def leaves_of(d: int) -> tuple[np.ndarray, np.int32]:
    leaves = summation_leaves(d)
    return leaves, np.int32(len(leaves))


def squared_norms(rng: np.random.Generator, dtype: str, m: int, d: int) -> Launch:
    rows = random_rows(rng, m, d, dtype)

    def check(*arguments: np.ndarray) -> bool:
        return np.array_equal(arguments[-1], norms_of(rows))

    arguments = on_device(rows), np.int64(m), np.int64(d), *leaves_of(d), np.full(m, -1.0)
    return f"squared_norms_{dtype}", (2,), BLOCK, arguments, check


def proven_score(dist: np.ndarray, to_score: np.ndarray) -> np.ndarray:
    """bound.py, step 3; `to_score` (..., 3)."""
    zero, scale, margin = np.moveaxis(to_score, -1, 0)
    score = (zero - dist) * scale
    return (score - (np.abs(score) + np.abs(dist) * scale) * ROUNDING - margin).astype(np.float32)


def unit_halves(rng: np.random.Generator, m: int, d: int) -> Launch:
    rows = random_rows(rng, m, d, "float16")
    rows[::3] *= np.float16(2**-11)
    rows[1::3] *= np.float16(2**6)
    norms, out = norms_of(rows), np.zeros((m, d))
    factor = power_of_two_below(np.sqrt(norms))

    def check(*arguments: Any) -> bool:
        return np.array_equal(arguments[-1], unit_by_rule(rows))

    sizes = np.int64(m), np.int64(d), *map(np.float64, PLAIN)
    return "unit_halves", (2,), BLOCK, (on_device(rows), *sizes, factor, out), check


def compare_references(rng: np.random.Generator, dtype: str, m: int, d: int, bits: int, single: bool) -> Launch:
    """Every score is in doubt in some rows, and none in others."""
    rows, references = random_rows(rng, m, d, dtype), random_rows(rng, bits, d, "float32")
    products, leaves = rows.astype(np.float64) @ references.T.astype(np.float64), summation_leaves(d)
    scores, out = products.astype(np.float32), np.zeros((m, bits // 8), np.uint8)
    scores[::2] = 0
    sure = np.float32(1e-4)

    def check(*arguments: Any) -> bool:
        return np.array_equal(arguments[-1], bits_by_rule(rows, references, single).view(np.uint8))

    counts = np.int64(m), np.int64(d), references, np.int64(bits), scores, sure
    order = leaves, np.int32(len(leaves)), np.int32(single), out
    return f"compare_references_{dtype}", (2,), BLOCK, (on_device(rows), *counts, *order), check


def begin_epoch(rng: np.random.Generator) -> Launch:
    nq, k = 600, 3
    dists = np.sort(rng.random((nq, k)))
    filled = rng.integers(k - 1, k + 1, nq).astype(np.int32)
    floor = np.where(rng.random(nq) < 0.5, rng.random(nq), np.inf)
    to_score = np.stack([rng.random(nq), 1 + rng.random(nq), rng.random(nq) / 100], axis=1)

    def check(*arguments: np.ndarray) -> bool:
        limit = np.where(filled == k, np.minimum(floor, dists[:, -1]), floor)
        threshold, held = arguments[-2:]
        return bool(np.allclose(threshold, proven_score(limit, to_score), rtol=1e-6, atol=1e-7)) and not held.any()

    sizes = np.int64(nq), np.int64(k), np.float64(ROUNDING)
    arguments = dists, filled, floor, to_score, *sizes, np.zeros(nq, np.float32), np.full(nq, 9, np.int32)
    return "begin_epoch", (2,), BLOCK, arguments, check


def select_passing(rng: np.random.Generator, nq: int, t: int, blocks: int) -> Launch:
    """The first query takes rows as good as one of them; the second all, more than there is room for; the third none.

    The last is itself a row.
    """
    start, first, room = 10, 1000, 50
    scores = rng.standard_normal((nq, t)).astype(np.float32)
    scale, bias = (rng.random(start + t).astype(np.float32) for _ in range(2))
    upper = scores * scale[start:] + bias[start:]
    threshold = upper.max(axis=1) - rng.random(nq).astype(np.float32)
    threshold[0] = upper[0, 0]
    threshold[1:2], threshold[2:3] = -np.inf, np.inf
    itself = np.full(nq, -1)
    itself[-1] = first + start + t // 2
    held = rng.integers(0, 20, nq).astype(np.int32)

    def check(*arguments: np.ndarray) -> None:
        counted, score, row, lost = arguments[-4:]
        passes = upper >= threshold[:, None]
        passes[-1, t // 2] = False
        assert np.array_equal(counted, held + passes.sum(axis=1)), f"held {counted}"
        assert lost[0] == np.maximum(counted - room, 0).sum(), f"{lost[0]} lost"
        for q in range(nq):
            places = slice(held[q], min(counted[q], room))
            found = row[q, places] - start
            assert len(set(found)) == len(found), f"query {q}: a row twice"
            assert passes[q, found].all(), f"query {q}: a row that does not pass"
            assert np.array_equal(score[q, places], upper[q, found]), f"query {q}: another row's score"
            assert (row[q, : held[q]] == -7).all(), f"query {q}: what was held is lost"

    arguments = (
        *(scores, np.int64(nq), np.int64(t), np.int64(start), scale, bias, threshold, itself, np.int64(first)),
        *(np.int64(room), held, np.zeros((nq, room), np.float32), np.full((nq, room), -7, np.int32)),
        np.zeros(1, np.uint64),
    )
    return "select_passing", (nq + 1, blocks), BLOCK, arguments, check


def hamming_scores(rng: np.random.Generator, nq: int, t: int, words: int) -> Launch:
    queries, rows = random_rows(rng, nq, words, "uint64"), random_rows(rng, t, words, "uint64")

    def check(*arguments: np.ndarray) -> bool:
        bits = np.bitwise_count(queries[:, None] ^ rows).sum(axis=2)
        return np.array_equal(arguments[-1], -bits.astype(np.float32))

    sizes = np.int64(nq), np.int64(t), np.int64(words)
    return "hamming_scores", (2, 2), BLOCK, (queries, rows, *sizes, np.ones((nq, t), np.float32)), check


def distances(rows: np.ndarray, query: np.ndarray, metric: Metric) -> np.ndarray:
    if metric is Metric.HAMMING:
        return np.bitwise_count(rows ^ query).sum(axis=1).astype(np.float64)
    x, q = rows.astype(np.float64), query.astype(np.float64)
    if metric is Metric.L2:
        return ((x - q) ** 2).sum(axis=1)
    dot = (x * q).sum(axis=1)
    return 1.0 - dot / np.sqrt(norms_of(rows) * (q * q).sum()) if metric is Metric.COSINE else -dot


def settle(rng: np.random.Generator, dtype: str, metric: Metric, d: int, most: int, ties: bool) -> Launch:
    """Eight queries, in the hands of three blocks, that hold 0 to 300 candidates and have found none, some or all k."""
    nq, k, before, m, room = 8, 7, 100, 300, 320
    held = np.array([0, 1, most, most + 1, 33, 150, 300, 3], np.int32)
    filled = np.array([0, 0, k, k, k - 1, k, 0, k], np.int32)
    everything, queries = random_rows(rng, before + m, d, dtype, ties), random_rows(rng, nq, d, dtype, ties)
    rows, single = everything[before:], bool(ties)
    stored = np.stack([distances(everything, query, metric) for query in queries])
    if single:
        stored = stored.astype(np.float32).astype(np.float64)
    query_norms, norms = (np.zeros(len(x)) if metric is Metric.HAMMING else norms_of(x) for x in (queries, rows))
    filter_ = filter_for(metric, d, query_norms, norms, Halved(2.0**-12, True).error)

    # The rows before are the state so far; of this epoch's, those of the highest upper bounds are held.
    dists, ids = np.full((nq, k), np.inf), np.full((nq, k), -1)
    score, row = np.full((nq, room), np.nan, np.float32), np.full((nq, room), -7, np.int32)
    upper = upper_bounds(rng, stored[:, before:], filter_)
    for q in range(nq):
        state = np.lexsort((np.arange(before), stored[q, :before]))[: filled[q]]
        dists[q, : filled[q]], ids[q, : filled[q]] = stored[q, state], state
        best = rng.permutation(np.argsort(-upper[q], kind="stable")[: held[q]])
        score[q, : held[q]], row[q, : held[q]] = upper[q, best], best
    threshold = np.full(nq, -np.inf, np.float32)
    full = filled == k
    threshold[full] = proven_score(dists[full, -1], filter_.to_score[full])

    wide = np.ascontiguousarray(queries, np.float64) if metric is not Metric.HAMMING else np.zeros((nq, d))
    spare = {"spare_dists": np.zeros((nq, k)), "spare_ids": np.zeros((nq, k), np.int64)}
    values: dict[str, dict[str, Any]] = {
        "Epoch": {"norms": norms, "bias": filter_.bias, "error": filter_.error, "d": d, "first": before},
        "Kept": {"queries": wide, "norms": query_norms, "to_score": filter_.to_score, "slack": filter_.slack, "nq": nq}
        | {"k": k, "dists": dists, "ids": ids, "filled": filled}
        | spare,
        "Found": {"threshold": threshold, "held": held, "score": score, "row": row, "exact": np.zeros((nq, room))}
        | {"room": room, "sums": np.zeros(2, np.uint64)},
        "Rule": dict(zip(("leaves", "leaf_count"), leaves_of(d), strict=True))
        | {"metric": list(Metric).index(metric), "single": single, "rounding": ROUNDING},
    }
    flat = {f"{struct}_{field}": value for struct, fields in values.items() for field, value in fields.items()}
    parameters = flat_parameters(f"settle_{dtype}")
    flat |= {parameters[0][0]: on_device(rows), parameters[-1][0]: most}
    arguments = tuple(flat[name] if "*" in type_ else np.dtype(type_).type(flat[name]) for name, type_ in parameters)
    given = [flat[name].copy() for name in SETTLE_CHANGES]
    check = partial(check_settled, [name for name, _ in parameters], given, stored, filter_, before, k, most)
    return f"flat_settle_{dtype}", (3,), BLOCK, arguments, check


def upper_bounds(rng: np.random.Generator, dists: np.ndarray, filter_: Filter) -> np.ndarray:
    """What `select_passing` could have computed for rows at these distances, (nq, m)."""
    zero, scale, _ = filter_.to_score.T[:, :, None]
    off = rng.uniform(-0.9, 0.9, dists.shape) * filter_.error
    return ((zero - dists) * scale + off + filter_.error).astype(np.float32)


def check_settled(
    names: list[str],
    given: list[np.ndarray],
    stored: np.ndarray,
    filter_: Filter,
    before: int,
    k: int,
    most: int,
    *arguments: np.ndarray,
) -> None:
    """What is left and what was found, query by query, from what was `given`."""
    after = dict(zip(names, arguments, strict=True))
    threshold, held, score, row, dists, ids, filled = (after[name] for name in SETTLE_CHANGES)
    sums = after["Found_sums"]
    refined, share = 0, 0.0
    for q, (limit, n, scores, rows, kept, kept_ids, so_far) in enumerate(zip(*given, strict=True)):
        scores, rows, kept, kept_ids = scores[:n], rows[:n], kept[:so_far], kept_ids[:so_far]
        if n > most and so_far + n >= k:
            proven = np.concatenate([proven_score(kept, filter_.to_score[q]), scores - filter_.slack[q]])
            limit = max(limit, np.sort(proven)[-k])
            scores, rows = scores[scores >= limit], rows[scores >= limit]
        if len(rows) > most:
            refined += len(rows)
            zero, scale, margin = filter_.to_score[q]
            exact = stored[q, before + rows]
            if filter_.error.any():
                off = np.abs(scores - (zero - exact) * scale - filter_.error[rows]) - margin
                share = max(share, float((off / filter_.error[rows]).max()))
            kept, kept_ids = np.concatenate([kept, exact]), np.concatenate([kept_ids, before + rows])
            order = np.lexsort((kept_ids, kept))[:k]
            kept, kept_ids, scores, rows = kept[order], kept_ids[order], scores[:0], rows[:0]
            if len(kept) == k:
                limit = max(limit, proven_score(kept[-1], filter_.to_score[q]))
        assert (filled[q], held[q]) == (len(kept), len(rows)), f"query {q}: {filled[q]} kept, {held[q]} held"
        assert np.array_equal(dists[q, : len(kept)], kept), f"query {q}: distances"
        assert np.array_equal(ids[q, : len(kept)], kept_ids), f"query {q}: ids"
        left = sorted(zip(row[q, : held[q]], score[q, : held[q]], strict=True))
        assert left == sorted(zip(rows, scores, strict=True)), f"query {q}: candidates"
        assert np.isclose(threshold[q], limit, rtol=1e-6, atol=1e-7), (
            f"query {q}: threshold {threshold[q]}, not {limit}"
        )
    assert sums[0] == refined, f"{sums[0]} refined, not {refined}"
    used = float(sums[1:].view(np.float64)[0])
    assert np.isclose(used, share, rtol=1e-3, atol=1e-3), f"share {used}, not {share}"
