"""Recall and evaluation, and what they take for an answer, as a Python program asks for them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.engine.neighbors import Neighbors
from gpuknn.errors import InputError, at_the_terminal
from gpuknn.gold import Comparison, Gold, Recall, compare, evaluate, recall, write_gold

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
    assert "distances are of two kinds, and were not compared" in repr(evaluate((IDS, np.sqrt(DISTS)), EXACT, ks=5))


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
