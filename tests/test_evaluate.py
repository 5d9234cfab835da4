"""Recall, evaluation, comparison and files of answers, as a Python program asks for them."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.errors import InputError, at_the_terminal
from gpuknn.gold import Comparison, Gold, Recall, RowsComparison, compare, evaluate, recall, write_gold
from gpuknn.gold.certificate import certificate_said, said_of_certificate
from gpuknn.gold.gold import JOB

NQ, K = 20, 12
RNG = np.random.default_rng(14)
ROWS = RNG.integers(0, 6, (200, 3)).astype(np.float32)  # with ties
ASKED = RNG.integers(0, 6, (NQ, 3)).astype(np.float32)
EXACT = gpuknn.exact_knn(ROWS, ASKED, k=K, metric="l2", dists="float64")


def worse(answer: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """Ids of which some are wrong or missing, and their true distances."""
    ids = answer.ids.copy()
    ids[::3, 4] = (ids[::3, 4] + 101) % len(ROWS)
    ids[1::4, -1] = -1
    dists = ((ROWS[ids].astype(np.float64) - ASKED[:, None]) ** 2).sum(axis=2)
    order = np.argsort(np.where(ids < 0, np.inf, dists), axis=1, kind="stable")
    dists[ids < 0] = np.inf
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(dists, order, axis=1)


IDS, DISTS = worse(EXACT)


class Dlpack:
    """Whole numbers that speak DLPack and nothing else, as arrays on a GPU do."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.ndim, self.dtype = values, values.ndim, f"torch.{values.dtype}"

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __dlpack__(self, **options: Any) -> Any:
        assert options.pop("dl_device") == (1, 0)
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def kinds(ids: np.ndarray, dists: np.ndarray, tmp_path: Path) -> dict[str, Any]:
    """The same answer in every way in which it is taken, without and with its distances."""
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["itest/knns"], file["itest/dists"] = np.where(ids < 0, 0, ids + 1), dists
        file["other/knns"], file["other/dists"] = ids[::-1] + 1, dists[::-1]
    np.save(tmp_path / "ids.npy", ids)
    structured = np.zeros(ids.shape, [("pad", "i1"), ("id", "i8")])
    structured["id"] = ids
    return {
        "int64": ids,
        "int32": ids.astype(np.int32),
        "uint64": ids.astype(np.uint64),
        "uint32": ids.astype(np.uint32),
        "big-endian": ids.astype(">i8"),
        "Fortran": np.asfortranarray(ids),
        "strided": np.repeat(ids, 2, axis=1)[:, ::2],
        "unaligned": structured["id"],
        "list": ids.tolist(),
        "tuple of lines": tuple(map(tuple, ids.tolist())),
        "lines": list(ids),
        "DLPack": Dlpack(ids),
        "str": str(tmp_path / "ids.npy"),
        "Path": tmp_path / "ids.npy",
        "Gold": Gold(ids),
        "group": f"{tmp_path}/r.h5:itest",
        "Gold with distances": Gold(ids, dists),
        "Neighbors": Neighbors(ids, dists),
        "Neighbors of a metric": Neighbors(ids, dists, "l2"),
        "pair": (ids, dists),
        "pair of lists": [ids.tolist(), dists.tolist()],
        "pair by DLPack": (Dlpack(ids), Dlpack(dists)),
        "labels of hnswlib": (ids.astype(np.uint64), dists),
    }


def by_ids(ids: np.ndarray, gold: np.ndarray, k: int) -> float:
    return float(np.mean([np.isin(gold[i, :k], ids[i, :k][ids[i, :k] >= 0]).sum() / k for i in range(len(gold))]))


def near_enough(dists: np.ndarray, gold: np.ndarray, k: int) -> float:
    """As ann-benchmarks counts: roots, and epsilon beside the k-th of the gold."""
    limits = np.sqrt(gold[:, k - 1]).astype(np.float32).astype(float) + 1e-3
    return float(np.mean((np.sqrt(dists[:, :k]).astype(np.float32) <= limits[:, None]).sum(axis=1) / k))


def tie_aware(ids: np.ndarray, gold: Neighbors, k: int) -> float:
    shares = []
    for i in range(len(ids)):
        near = gold.ids[i][gold.dists[i] <= gold.dists[i, k - 1]]
        shares.append(min(k, np.isin(ids[i, :k], near).sum()) / k)
    return float(np.mean(shares))


def test_the_figures_are_those_of_plain_loops() -> None:
    found = evaluate((IDS, DISTS), EXACT, ks=(1, 5, K))
    assert [r.k for r in found] == [1, 5, K]
    for r in found:
        assert r.by_ids == pytest.approx(by_ids(IDS, EXACT.ids, r.k), rel=1e-12)
        assert r.tie_aware == pytest.approx(tie_aware(IDS, EXACT, r.k), rel=1e-12)
        assert r.by_ids == recall(IDS, EXACT, k=r.k)
        assert found[r.k] is r
    assert 0.7 < found[5].by_ids < found[5].tie_aware < 1
    assert recall(IDS, EXACT) == found[K].by_ids < 1
    with pytest.raises(KeyError):
        found[7]


def test_distances_count_if_both_are_of_one_kind() -> None:
    result = Neighbors(IDS, DISTS, "l2")
    for k in (1, 5, K):
        known = evaluate(result, EXACT, ks=k)[k].by_distances
        assert known == pytest.approx(near_enough(DISTS, EXACT.dists, k), rel=1e-12)
        assert evaluate((IDS, DISTS), EXACT, ks=k)[k].by_distances == known
    assert evaluate((IDS, np.sqrt(DISTS)), EXACT, ks=5)[5].by_distances is None
    assert "gave" not in repr(evaluate((IDS, np.sqrt(DISTS)), EXACT, ks=5))
    assert "other distances, so distances were not compared" in repr(evaluate((IDS, np.sqrt(DISTS)), EXACT, ks=5))


def test_every_kind_of_answer_is_taken_on_either_side(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    mine, theirs = kinds(IDS, DISTS, tmp_path / "mine"), kinds(EXACT.ids, EXACT.dists, tmp_path / "theirs")
    expected = by_ids(IDS, EXACT.ids, 5)
    for name in mine:
        assert recall(mine[name], EXACT, k=5) == pytest.approx(expected, rel=1e-12), name
        assert recall(IDS, theirs[name], k=5) == pytest.approx(expected, rel=1e-12), name
        assert evaluate(mine[name], EXACT, ks=5)[5].tie_aware == pytest.approx(tie_aware(IDS, EXACT, 5), rel=1e-12), (
            name
        )
        found, same = compare(mine[name], Gold(EXACT.ids)), compare(Gold(IDS), mine[name])
        assert isinstance(found, Comparison), name
        assert isinstance(same, Comparison), name
        assert (found.ids, found.equal, same.equal) == (int((EXACT.ids != IDS).sum()), False, True), name


def test_an_answer_keeps_what_it_knows(tmp_path: Path) -> None:
    """Queries are matched by their ids, and rows by the ids that the database's file gives."""
    order = np.roll(np.arange(NQ), 3)
    own = Neighbors(EXACT.ids, EXACT.dists, "l2", EXACT.ids + 1000, np.arange(NQ) + 70)
    turned = Neighbors(EXACT.ids[order], EXACT.dists[order], "l2", own.own_ids[order], own.query_ids[order])  # type: ignore[index]
    assert recall(turned, own) == 1
    assert recall(turned, EXACT) < 0.5
    assert recall(Gold(EXACT.ids + 1000, own_ids=EXACT.ids + 1000), own) == 1
    for rows in (EXACT.ids, tuple(own), Gold(EXACT.ids)):
        found = evaluate(rows, own, ks=K)
        assert (found[K].by_ids, found.rows_by) == (1, "row numbers")
    np.save(tmp_path / "rows.npy", EXACT.ids)  # which may hold either
    found = evaluate(tmp_path / "rows.npy", own, ks=K)
    assert (found[K].by_ids, found.rows_by) == (0, "the ids that the database's file gives")
    assert repr(found).startswith("rows are told by the ids that the database's file gives\nrecall@12: 0.000000 by ids")
    assert "one answer counts rows, and the other may hold ids of the database's own" in repr(found)
    for name in ("own.h5", "own.parquet"):
        write_gold(tmp_path / name, turned)
        assert recall(tmp_path / name, own) == recall(own, str(tmp_path / name)) == 1
    squares, roots = Neighbors(EXACT.ids, EXACT.dists, "l2"), Gold(EXACT.ids, np.sqrt(EXACT.dists), "euclidean")
    assert compare(squares, roots).equal
    with pytest.raises(InputError, match=r"a holds .*, b holds .*: two different distances"):
        compare(squares, Neighbors(EXACT.ids, EXACT.dists, "cosine"))


def test_inner_products_of_faiss_descend(tmp_path: Path) -> None:
    gold = gpuknn.exact_knn(ROWS, ASKED, k=4, metric="ip")
    ids, products = gold.ids, np.einsum("qkd,qd->qk", ROWS[gold.ids], ASKED)
    assert np.all(np.diff(products) <= 0)
    found = evaluate((ids, products), gold, ks=4)
    assert found[4] == Recall(4, 1.0, 1.0, 1.0, 1e-3, 0, 0, 0)
    assert compare((ids, products), gold).equal
    assert evaluate((ids, 1 - products), gold, ks=4)[4].by_distances is None  # as hnswlib gives them


@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("numbers", [[[1.5], [1.0]], [[0.5, 0.5], [1.0, 1.0]], [[0.5, 1.0], [1.0, 0.5]]])
def test_a_sign_that_no_line_tells_is_not_guessed(metric: str, numbers: list[list[float]], tmp_path: Path) -> None:
    pair = np.arange(2 * len(numbers[0])).reshape(2, -1), np.array(numbers)
    for said in ({"metric": metric}, {"distance": metric}):
        with pytest.raises(InputError, match=r"the answer: its lines do not tell .* pass gpuknn.Gold\(ids, dists\)"):
            write_gold(tmp_path / "g.h5", pair, attributes=said)
    assert not list(tmp_path.iterdir())
    known = Gold(pair[0], -pair[1] if metric == "ip" else pair[1], metric)
    if metric == "ip":
        for a, b, name in ((pair, known, "a"), (known, pair, "b")):
            with pytest.raises(InputError, match=f"^{name}: its lines do not tell whether"):
                compare(a, b)
    assert evaluate(pair, Gold(pair[0]), ks=1)[1].by_ids == 1
    if pair[1].shape[1] == 1:
        assert evaluate(pair, known, ks=1)[1].by_distances is None
        assert evaluate(pair, pair, ks=1)[1].by_distances is None
    write_gold(tmp_path / "g.h5", Gold(*pair), attributes={"metric": metric})
    write_gold(tmp_path / "pair.h5", pair, attributes={"metric": "l2"})
    for name in ("g.h5", "pair.h5"):
        assert gpuknn.read_gold(tmp_path / name) == Gold(*pair)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sign_that_the_lines_tell_is_taken(sign: int, tmp_path: Path) -> None:
    """Products fall, and products times -1 rise."""
    nearest = gpuknn.exact_knn(ROWS, ASKED, k=4, metric="ip")
    write_gold(tmp_path / "g.h5", (nearest.ids, -sign * nearest.dists), attributes={"metric": "ip"})
    assert gpuknn.read_gold(tmp_path / "g.h5") == nearest


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (DISTS, "the result: holds float64, and ids are whole numbers; are these the distances"),
        (DISTS.astype("f4").tolist(), "FAISS and scikit-learn return distances first: D, I = index.search"),
        ((DISTS, IDS), r"its first matrix holds distances and its second ids; .* \(ids, dists\)"),
        ([DISTS, IDS], r"its first matrix holds distances and its second ids"),
        ((DISTS.astype("f4"), IDS.astype("u8")), "its first matrix holds distances"),
        ((np.sort(RNG.integers(0, 40, (NQ, K)).astype("i4")), EXACT.ids), "its first matrix holds distances"),
        ((DISTS, DISTS), "holds float64, and ids are whole numbers"),
        ((IDS, DISTS[:, :3]), r"has distances float64 \(20, 3\); the ids have the shape \(20, 12\)"),
        ((IDS, DISTS > 1), "has distances bool"),
        (IDS[0], r"holds int64 \(12,\); an answer is a matrix of ids, \(queries, neighbours\)"),
        ((IDS[0], DISTS[0]), r"holds float64 \(2, 12\)|holds float64, and ids"),
        (IDS > 3, "holds bool"),
        (IDS.astype(str), "an answer is a matrix of ids"),
        ([[1, 2], [3]], "the result: is no array that NumPy can take"),
        ([[1, None], [3, 4]], "holds object"),
        (None, "holds object"),
        (np.zeros((0, 4), int), "is empty, it holds 0 queries with 4 neighbours each"),
        (np.full((NQ, K), 2**63, "u8"), r"an id is beyond 2\^63 - 1"),
        (EXACT.ids - 5, r"the result: query \d+ has the id -\d at rank \d+ .*; ids count from 0, -1 is no id"),
        ((EXACT.ids - 5, DISTS), "ids count from 0, -1 is no id"),
        (Gold(EXACT.ids - 5), "ids count from 0, -1 is no id"),
        (Neighbors(EXACT.ids - 5, DISTS), "ids count from 0, -1 is no id"),
        ("nothing.h5", "nothing.h5: there is no such file"),
        (Path("nothing.npy"), "nothing.npy: there is no such file"),
        (IDS[:3], "the result answers 3 queries, the gold standard answers 20"),
        (Neighbors(IDS[:3], DISTS[:3]), "the result answers 3 queries"),
    ],
)
def test_what_is_no_answer_is_refused_in_plain_words(answer: Any, words: str) -> None:
    for ask in (recall, evaluate, compare):
        if ask is compare and isinstance(answer, Path | str | type(None)):
            continue
        expected = words.replace("the result", "a").replace("the gold standard", "b") if ask is compare else words
        with pytest.raises(InputError, match=expected):
            ask(answer, EXACT)
    if isinstance(answer, np.ndarray) and answer.dtype.kind == "f":
        with pytest.raises(InputError, match="the gold standard: holds float64"):
            recall(EXACT, answer)


def test_ranks_and_epsilon_are_checked() -> None:
    for k in (0, K + 1, -1):
        for ask in (lambda k: recall(IDS, EXACT, k=k), lambda k: evaluate(IDS, EXACT, ks=(k,))):
            with pytest.raises(InputError, match=f"k = {k}: the result has 12 neighbours for each query, the gold"):
                ask(k)
    wrong: list[Any] = [2.5, True, np.True_, "10", b"10", np.array(5), [5]]
    for k in wrong:
        said = f"^k = {re.escape(repr(k))}: must be a whole number"
        with pytest.raises(InputError, match=said):
            recall(IDS, EXACT, k=k)
        for ks in ([k], (5, k), *([k] if k != [5] else [])):
            with pytest.raises(InputError, match=said):
                evaluate(IDS, EXACT, ks=ks)
    for ks in (None, [None]):
        with pytest.raises(InputError, match=r"^k = None: must be a whole number"):
            evaluate(IDS, EXACT, ks=ks)  # type: ignore[arg-type]
    for ks in ([], (), np.array([], int), iter([])):
        with pytest.raises(InputError, match=r"^ks=.*: names no rank"):
            evaluate(IDS, EXACT, ks=ks)
    same: list[Any] = [np.int64(5), (np.int64(5),), np.array([5]), [np.uint8(5)], iter([5]), {5}, range(5, 6)]
    for ks in same:
        assert evaluate(IDS, EXACT, ks=ks) == evaluate(IDS, EXACT, ks=5)
    assert type(evaluate(IDS, EXACT, ks=same[0]).recalls[0].k) is int
    assert recall(IDS, EXACT, k=np.int64(5)) == recall(IDS, EXACT, k=5)  # type: ignore[arg-type]
    for epsilon in ("x", None, 1j):
        with pytest.raises(InputError, match="must be 0 or more"):
            evaluate(IDS, EXACT, epsilon=epsilon)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^epsilon=-0.1: must be 0 or more"):
        evaluate(IDS, EXACT, epsilon=-0.1)
    with at_the_terminal(), pytest.raises(InputError, match=r"^--epsilon nan: must be 0 or more"):
        evaluate(IDS, EXACT, epsilon=float("nan"))
    with pytest.raises(TypeError, match="positional"):
        recall(IDS, EXACT, 5)  # type: ignore[call-arg]


def test_the_command_prints_what_python_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, gold = f"{tmp_path}/result.h5", f"{tmp_path}/gold.h5"
    write_gold(result, (IDS, DISTS), attributes={"metric": "l2", "algo": "made up"})
    write_gold(gold, EXACT)
    assert main(["eval", result, gold, "-k", "1,5,12"]) == 0
    assert capsys.readouterr().out == f"algo: made up\n{evaluate(result, gold, ks=(1, 5, 12))}\n"
    assert main(["compare", result, gold]) == 1
    found = compare(result, gold)
    assert isinstance(found, Comparison)
    assert capsys.readouterr().out == "\n".join([repr(found), *found.remarks, ""])
    assert "\n" not in repr(found)
    r = Recall(5, 0.95, 1 - 1e-9, None, 1e-3, 0, 0, 0)
    assert repr(r) == "Recall(k=5, by_ids=0.950000, tie_aware=1.000000, by_distances=None)"


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


def test_knns_of_an_open_file_are_not_taken_for_numbers_from_0(tmp_path: Path) -> None:
    write_gold(tmp_path / "g.h5", EXACT)
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        file["itest/knns"], file["itest/I"] = EXACT.ids + 1, EXACT.ids
        for held, path in (
            (file["knns"], f"{tmp_path}/g.h5"),
            ((file["knns"], file["dists"]), f"{tmp_path}/g.h5"),
            (file["itest/knns"], f"{tmp_path}/g.h5:itest"),
        ):
            for ask in (recall, evaluate, compare):
                with pytest.raises(InputError, match=f'knns of a file count from 1, .*; pass the path, "{path}"$'):
                    ask(held, EXACT)
        assert recall(file["itest/I"][:], EXACT) == recall(f"{tmp_path}/g.h5:itest", EXACT) == 1


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


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2", "hamming"])
def test_a_written_answer_is_what_the_command_would_have_written(metric: str, tmp_path: Path) -> None:
    rows = RNG.integers(0, 2**63, (300, 2), dtype=np.uint64) if metric == "hamming" else ROWS + 1
    for name, values in (("rows", rows), ("asked", rows[:NQ] + rows[1])):
        np.save(tmp_path / f"{name}.npy", values)
    database, queries, gold, ours = (str(tmp_path / name) for name in ("rows.npy", "asked.npy", "gold.h5", "ours.h5"))
    words = ["exact", database, queries, "-o", gold, "-k", "4", "--metric", metric, "--device", "cpu", "--quiet"]
    assert main(words) == 0
    found = gpuknn.exact_knn(database, queries, k=4, metric=metric, device="cpu")
    write_gold(ours, found)
    here, there = gpuknn.read_gold(ours), gpuknn.read_gold(gold)
    assert here == there
    assert here.distance == there.distance == metric
    assert compare(ours, gold).equal
    assert found.certificate is not None
    assert certificate_said(here.said) == found.certificate
    names = [name for name in there.said if name.startswith("certificate") or name in ("metric", "distance")]
    assert len(names) == 6
    assert {type(here.said[name]) for name in names} == {type(there.said[name]) for name in names}
    if metric == "hamming":
        assert found.bits == 128
        for name, ann in ((ours, "ours.hdf5"), (gold, "gold.hdf5")):
            assert main(["convert", name, f"{tmp_path}/{ann}", "--to", "ann-benchmarks"]) == 0
        assert gpuknn.read_gold(tmp_path / "ours.hdf5") == gpuknn.read_gold(tmp_path / "gold.hdf5")
    for command in (["compare", ours, gold], ["eval", ours, gold, "-k", "4"], ["convert", ours, f"{ours}.ivecs"]):
        assert main(command) == 0


def test_what_a_file_has_a_place_for_is_kept(tmp_path: Path) -> None:
    answer = Neighbors(
        IDS,
        DISTS,
        "l2",
        np.where(IDS < 0, -1, IDS + 1000),
        np.arange(NQ)[::-1] + 7,
        certificate=Certificate("f", 0.5, 3, 1.0),
    )
    write_gold(tmp_path / "g.h5", answer, attributes={"algo": "HNSW", "certificate": "mine"})
    again = gpuknn.read_gold(tmp_path / "g.h5")
    assert again == Gold(IDS, DISTS, "l2", answer.own_ids, answer.query_ids)
    assert (again.said["algo"], again.said["certificate"], again.said["metric"]) == ("HNSW", "mine", "l2")
    write_gold(tmp_path / "g.parquet", answer)
    ids, dists = gpuknn.read_gold(tmp_path / "g.parquet")
    assert np.array_equal(ids, np.where(IDS < 0, -1, IDS + 1000)[::-1])
    assert dists is None
    for name in ("g.ibin", "g.ivecs"):
        with pytest.raises(InputError, match="its lines are not in the order of the queries' ids, for which"):
            write_gold(tmp_path / name, tmp_path / "g.parquet")
    for name, words in (
        ("no/g.h5", "there is no such folder"),
        ("g.txt", "its name tells no format"),
        ("", "no name|no"),
    ):
        with pytest.raises(InputError, match=words):
            write_gold(tmp_path / name, answer)
    with pytest.raises(InputError, match="holds distances, and the source has none"):
        write_gold(tmp_path / "ids.h5", IDS)
    with pytest.raises(InputError, match=r"the path is Neighbors; it stands first here: write_gold\(path, answer\)"):
        write_gold(answer, tmp_path / "g.h5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="positional"):
        write_gold(tmp_path / "g.h5", answer, {"algo": "HNSW"})  # type: ignore[call-arg]
    certificate = Certificate("float32, int8", 0.25, 12, 0.125)
    assert certificate_said(said_of_certificate(certificate)) == certificate


def test_a_file_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    gpuknn.convert(tmp_path / "rows.npy", tmp_path / "rows.h5")
    before = (tmp_path / "rows.h5").read_bytes()
    with pytest.raises(InputError, match=r"rows.h5: exists already; force=True replaces it"):
        write_gold(tmp_path / "rows.h5", EXACT)
    assert (tmp_path / "rows.h5").read_bytes() == before
    write_gold(tmp_path / "rows.h5", EXACT, force=True)
    assert gpuknn.read_gold(tmp_path / "rows.h5") == EXACT


def test_what_a_file_says_is_written_again(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    gpuknn.exact(tmp_path / "rows.npy", None, tmp_path / "a.h5", k=3, metric="l2", device="cpu")
    gold = gpuknn.read_gold(tmp_path / "a.h5")
    assert {"metric", "certificate", "certificate_bound", JOB} <= set(gold.said)
    for answer in (gold, tmp_path / "a.h5"):
        write_gold(tmp_path / "b.h5", answer, attributes={"algo": "HNSW", "k": 4}, force=True)
        again = gpuknn.read_gold(tmp_path / "b.h5")
        assert again == gold
        plain = {name: value for name, value in gold.said.items() if isinstance(value, str | int | float)}
        expected = plain | {"algo": "HNSW", "k": 4, "dists_are": "|x - q|^2, the square of the Euclidean distance"}
        assert again.said == {name: value for name, value in expected.items() if name != JOB}
    unknown = Gold(IDS, DISTS, said={"metric": "cosine", "algo": "HNSW", "sizes": [1, 2]})
    write_gold(tmp_path / "c.h5", unknown, attributes={"distance": "l2"})
    said = gpuknn.read_gold(tmp_path / "c.h5").said
    assert (said["distance"], said["algo"], "metric" in said, "sizes" in said) == ("l2", "HNSW", False, False)


@pytest.mark.parametrize(
    ("answer", "said", "distance", "metric"),
    [
        ((IDS, DISTS), {}, None, None),
        ((IDS, DISTS), {"metric": "l2"}, "l2", "l2"),
        ((IDS, DISTS), {"metric": "sqeuclidean"}, "l2", "sqeuclidean"),
        ((IDS, DISTS), {"distance": "l2"}, "l2", None),
        ((IDS, np.sqrt(DISTS)), {"metric": "l2", "distance": "euclidean"}, "euclidean", "l2"),
        (Neighbors(IDS, DISTS, "l2"), {"metric": "l2"}, "l2", "l2"),
        (Neighbors(IDS, -DISTS), {"metric": "dot"}, "ip", "dot"),
        ((IDS, -DISTS), {"metric": "ip"}, "ip", "ip"),
    ],
)
def test_attributes_tell_the_distance(
    answer: Any, said: dict[str, str], distance: str | None, metric: str | None, tmp_path: Path
) -> None:
    write_gold(tmp_path / "g.h5", answer, attributes=said)
    again = gpuknn.read_gold(tmp_path / "g.h5")
    assert (again.distance, again.said.get("metric")) == (distance, metric)


@pytest.mark.parametrize(
    ("answer", "said", "words"),
    [
        (
            Neighbors(IDS, DISTS, "l2"),
            {"metric": "euclidean"},
            "metric is euclidean, which is the name of a distance; call it distance",
        ),
        (Neighbors(IDS, DISTS, "l2"), {"metric": "cosine"}, "metric is cosine, but the distances are .*the square"),
        (Gold(IDS, DISTS, "hamming"), {"distance": "mean-hamming"}, "distance is mean-hamming, but .* the number of"),
        ((IDS, DISTS), {"metric": "cosine"}, "which is not 1 - x.q .*: that is from 0 to 2"),
        (Gold(IDS, DISTS, "euclidean"), {"distance": "l2"}, "distance is l2, but the distances are .*the root"),
        ((IDS, DISTS), {"metric": "nonsense"}, 'metric="nonsense": there are cosine, ip '),
        ((IDS, DISTS), {"distance": "foo"}, 'distance="foo": there are cosine, ip, l2, euclidean, hamming, mean-ham'),
        (Gold(IDS, DISTS, "l2"), {"distance": "foo"}, 'distance="foo": there are'),
        (
            Gold(IDS, DISTS),
            {"distance": "l2", "metric": "cosine"},
            "metric is cosine, but the attribute distance is l2",
        ),
        (Gold(IDS, DISTS), {"distance": "euclidean", "metric": "nonsense"}, 'metric="nonsense": there are'),
        (EXACT, {"algo": None}, r"attributes=\{'algo': None\}: names are text, values text or numbers"),
        (EXACT, {3: "algo"}, r"attributes=\{3: 'algo'\}: names are text"),
        (EXACT, {"algo": "a\0b"}, "names are text, values text or numbers"),
        (EXACT, {"size": 2**63}, "names are text, values text or numbers"),
        (EXACT, "g.h5", "attributes='g.h5': is no dict"),
        (EXACT, ["algo"], r"attributes=\['algo'\]: is no dict"),
        ((IDS, DISTS), {"metric": "angular"}, "angular.*cosine"),
    ],
)
def test_attributes_that_contradict_the_answer_are_refused(answer: Any, said: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        write_gold(tmp_path / "g.h5", answer, attributes=said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("use", [gpuknn.recall, gpuknn.evaluate, gpuknn.compare])
def test_what_nobody_has_answered_is_no_answer(use: Callable[[Any, Any], object], tmp_path: Path) -> None:
    """Masked entries, and chunks of a stored array that were never written."""
    masked = np.ma.array(IDS, mask=np.arange(IDS.size).reshape(IDS.shape) % 2 == 0)
    for answer in (masked, (IDS, np.ma.array(DISTS, mask=masked.mask))):
        with pytest.raises(InputError, match="has masked entries; fill"):
            use(answer, EXACT)
    with h5py.File(tmp_path / "ids.h5", "w") as file:
        stored = file.create_dataset("I", IDS.shape, np.int64, chunks=(1, IDS.shape[1]))
        stored[:1] = IDS[:1]
        with pytest.raises(InputError, match=r"is a stored array; pass its file's path"):
            use(stored, EXACT)
