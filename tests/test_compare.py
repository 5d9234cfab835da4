"""Gold standards and vectors compared with one another, as a Python program asks for it; what a Gold is made of."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.engine.neighbors import Neighbors
from gpuknn.errors import InputError
from gpuknn.gold import Comparison, Gold, RowsComparison, compare, evaluate, write_gold
from tests.test_evaluate import DISTS, EXACT, IDS, NQ, RNG, ROWS


def test_gold_standards_compare_without_raising() -> None:
    gold = Gold(IDS, DISTS, "l2", IDS + 5, np.arange(NQ))
    same = Gold(IDS.copy(), DISTS.copy(), None, IDS + 5, np.arange(NQ), said={"algo": "other"})
    assert gold == same
    assert pickle.loads(pickle.dumps(gold)) == gold
    nan = Gold(IDS, np.full(DISTS.shape, np.nan))
    assert nan == Gold(IDS.copy(), np.full(DISTS.shape, np.nan))
    for other in (
        Gold(IDS + 1, DISTS, "l2", IDS + 5, np.arange(NQ)),
        Gold(IDS, DISTS + 1, "l2", IDS + 5, np.arange(NQ)),
        Gold(IDS, DISTS.astype("f4"), "l2", IDS + 5, np.arange(NQ)),
        Gold(IDS, None, None, IDS + 5, np.arange(NQ)),
        Gold(IDS, DISTS, "l2", IDS + 6, np.arange(NQ)),
        Gold(IDS, DISTS, "l2", None, np.arange(NQ)),
        Gold(IDS, DISTS, "l2", IDS + 5, np.arange(NQ)[::-1]),
        gold.first(3),
        "gold",
    ):
        assert (gold == other) is False
        assert gold != other
    ids, dists = gold
    assert ids is IDS
    assert dists is DISTS
    assert len(gold) == NQ
    assert repr(gold) == "Gold(20 queries x 12, l2, float64 distances)"
    assert repr(Gold(IDS)) == "Gold(20 queries x 12, no distances)"
    assert evaluate(gold, gold) == evaluate(gold, gold) != evaluate(gold, gold, ks=3)
    assert repr(Neighbors(np.zeros((2_000, 3), int), np.zeros((2_000, 3)))) == (
        "Neighbors(2,000 queries x 3, float64 distances)"
    )


def test_a_gold_standard_equals_the_neighbors_that_it_holds(tmp_path: Path) -> None:
    own = np.where(IDS < 0, -1, IDS + 5)
    found = Neighbors(IDS, DISTS, "l2", own, np.arange(NQ)[::-1])
    write_gold(tmp_path / "g.h5", found)
    gold = gpuknn.read_gold(tmp_path / "g.h5")
    again = Neighbors(IDS.copy(), DISTS.copy(), own_ids=own.copy(), query_ids=np.arange(NQ)[::-1])
    assert found == gold == found == again == gold
    for other in (
        Neighbors(IDS + 1, DISTS, "l2", own, np.arange(NQ)[::-1]),
        Neighbors(IDS, DISTS + 1, "l2", own, np.arange(NQ)[::-1]),
        Neighbors(IDS, DISTS, "l2", own + 1, np.arange(NQ)[::-1]),
        Neighbors(IDS, DISTS, "l2", None, np.arange(NQ)[::-1]),
        Neighbors(IDS, DISTS, "l2", own),
        (IDS, DISTS),
    ):
        assert found != other
        assert gold != other
        assert other != gold


def test_a_gold_standard_is_made_of_lists_or_not_at_all() -> None:
    gold = Gold([[1, 2]], [[0, 0.5]], None, [[7, -1]], [9])  # type: ignore[arg-type]
    assert gold == Gold(np.array([[1, 2]]), np.array([[0, 0.5]]), None, np.array([[7, -1]]), np.array([9]))
    assert Gold(np.array([[1, 2**32 - 1]], "u4")) == Gold(np.array([[1, 2**64 - 1]], "u8")) == Gold([[1, -1]])  # type: ignore[arg-type]
    assert Gold([[1, 2]], [[0, 3]]).dists.dtype == np.float32  # type: ignore[arg-type, union-attr]
    faults: list[tuple[tuple[Any, ...], str]] = [
        ((EXACT,), r"^Gold: ids are Neighbors; pass an array of whole numbers, \(queries, neighbours\)"),
        ((None,), "ids are NoneType"),
        (([1, 2],), r"ids are int64 \(2,\); pass an array"),
        (([[1.0, 2.0]],), "ids are float64"),
        (([[1], [2, 3]],), "ids are no array that NumPy can take"),
        (("g.h5",), "ids are <U4"),
        (([[1, 2]], [["a", "b"]]), "dists are <U1 .*; pass an array of numbers"),
        (([[1, 2]], [[1.0]]), r"dists have the shape \(1, 1\); the ids have the shape \(1, 2\)"),
        (([[1, 2]], None, None, [[1]]), r"own_ids have the shape \(1, 1\)"),
        (([[1, 2]], None, None, None, [1, 2]), r"query_ids have the shape \(2,\)"),
        (([[1, 2]], None, None, None, [[1]]), r"query_ids are int64 .*whole numbers, \(queries,\)"),
    ]
    for parts, words in faults:
        with pytest.raises(InputError, match=words):
            Gold(*parts)


def test_vectors_are_compared_wherever_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    seen: list[Mapping[str, Any]] = []
    other = ROWS.copy()
    other[7, 2] = -1
    for there in (ROWS, tmp_path / "rows.npy", str(tmp_path / "rows.npy"), gpuknn.open_vectors(tmp_path / "rows.npy")):
        found = compare(there, ROWS.tolist(), dtype="float32", progress=seen.append)
        assert isinstance(found, RowsComparison)
        assert (found.equal, found.difference) == (False, "200 x 3 float32 beside 200 x 3 float64")
        found = compare(there, ROWS, progress=seen.append)
        assert (found.equal, repr(found)) == (True, "equal: 200 x 3 float32")
        assert [event.get("rows") for event in seen[-2:]] == [200, 200]
        assert (seen[-2]["name"], seen[-2]["row_bytes"], seen[-1]["event"]) == ("comparing", 12, "read")
        found = compare(there, other)
        words = f"first at row 7, component 2: {ROWS[7, 2]:g} beside -1"
        assert isinstance(found, RowsComparison)
        assert (found.difference, repr(found)) == (words, f"not equal: {words}")
    part = compare(ROWS, ROWS[5:9].astype(np.float16), rows="5:9", dtype=np.float16)
    assert repr(part) == "equal: 4 x 3 float16, after turning float32 into float16"
    assert compare(ROWS, ROWS.astype("i1") * 2, scale=2.0).equal
    sketches = RNG.integers(0, 2**63, (9, 2), dtype=np.uint64)
    assert repr(compare(sketches, sketches)) == "equal: 9 x 2 uint64"


def test_what_a_comparison_has_no_use_for_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    rows = str(tmp_path / "rows.npy")
    for words, a, b, options in (
        ("scale: a is a gold standard, not vectors; leave it out", EXACT, IDS, {"scale": 2.0}),
        ("ignore_ids: a is a gold standard, not vectors", IDS, IDS, {"ignore_ids": True}),
        ("b is a gold standard, not vectors", ROWS.astype("u8"), EXACT, {"round": True}),
        ("rows: there is nothing to compare .*rows.npy with; leave it out", rows, None, {"rows": "0:3"}),
        ("dtype: there is nothing to compare", rows, None, {"dtype": np.float32}),
        ("rows.npy: holds no checksums of gpuknn convert", rows, None, {}),
        ("there is nothing to compare a with; name b, too", EXACT, None, {}),
        ("there is nothing to compare a with; name b, too", ROWS, None, {}),
        ('dtype="complex128": there are float16, float32', ROWS, ROWS, {"dtype": complex}),
        ('dtype="nonsense": there are float16, float32', ROWS, ROWS, {"dtype": "nonsense"}),
        ("a: holds float32, and ids are whole numbers", ROWS, EXACT, {}),
    ):
        with pytest.raises(InputError, match=words):
            compare(a, b, **options)
    wide, narrow = Gold(IDS, DISTS + 1e-9), Gold(IDS, (DISTS + 1e-9).astype("f4"))
    found = compare(wide, narrow)
    assert isinstance(found, Comparison)
    assert found.remarks[1] == 'the distances are float64 and float32; dtype="float32" compares after rounding A\'s'
    assert compare(wide, narrow, dtype="float32").equal
    assert compare(wide, narrow, dtype=np.float32, rows="0:20").equal
