from pathlib import Path

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.errors import InputError
from gpuknn.gold import GoldWriter, compare_gold, read_gold, read_result, tie_aware_recall, write_gold


def neighbors(ids: object, dists: object) -> gpuknn.Neighbors:
    return gpuknn.Neighbors(np.array(ids, np.int64), np.array(dists, np.float32))


GOLD = neighbors([[4, 2, 7, 9], [1, 0, 5, 3]], [[0.1, 0.2, 0.2, 0.3], [0.0, 0.5, 0.6, 0.7]])


def test_files_are_laid_out_as_published(tmp_path: Path) -> None:
    write_gold(tmp_path / "g.h5", GOLD, {"metric": "cosine", "k": 4})
    with h5py.File(tmp_path / "g.h5") as file:
        assert set(file) == {"knns", "dists"}
        assert (file["knns"].dtype, file["dists"].dtype) == (np.int32, np.float32)
        assert file["knns"].shape == (2, 4)
        assert file["knns"][0].tolist() == [5, 3, 8, 10]
        assert dict(file.attrs) == {"metric": "cosine", "k": 4}
    again = read_gold(tmp_path / "g.h5")
    assert np.array_equal(again.ids, GOLD.ids)
    assert np.array_equal(again.dists, GOLD.dists)
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_ids_past_31_bits_are_kept(tmp_path: Path) -> None:
    write_gold(tmp_path / "g.h5", neighbors([[2**31 - 2]], [[0.0]]))
    assert h5py.File(tmp_path / "g.h5")["knns"].dtype == np.int32
    write_gold(tmp_path / "g.h5", neighbors([[2**31 - 1]], [[0.0]]))
    assert h5py.File(tmp_path / "g.h5")["knns"].dtype == np.int64
    assert read_gold(tmp_path / "g.h5").ids.tolist() == [[2**31 - 1]]


def test_nothing_appears_under_the_name_when_writing_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with GoldWriter(tmp_path / "g.h5", 2, 4, 10, np.dtype("f4")) as file:
            file.write(0, GOLD)
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_recall_by_ids_and_with_ties() -> None:
    result = neighbors([[4, 7, 2, 8], [1, 0, 5, 3]], np.zeros((2, 4)))
    assert gpuknn.recall(result, GOLD, 2) == (1 / 2 + 1) / 2
    at_two = tie_aware_recall(result, GOLD, 2)
    assert (at_two.by_ids, at_two.tie_aware, at_two.undecided) == (0.75, 1.0, 0)
    assert gpuknn.recall(result, GOLD) == (3 / 4 + 1) / 2
    assert tie_aware_recall(result, GOLD, 4).undecided == 0
    assert tie_aware_recall(result, neighbors(GOLD.ids[:, :3], GOLD.dists[:, :3]), 2).undecided == 1
    repeated = neighbors([[4, 4, 4, 4], [9, 9, 9, 9]], np.zeros((2, 4)))
    assert gpuknn.recall(repeated, GOLD, 4) == 1 / 8
    for k in (0, 5):
        with pytest.raises(InputError, match="k = "):
            gpuknn.recall(result, GOLD, k)
    with pytest.raises(InputError, match="answers 1 queries"):
        gpuknn.recall(neighbors([[1]], [[0]]), GOLD)


def test_results_may_speak_in_attributes_or_scalars(tmp_path: Path) -> None:
    for name, scalars in (("a.h5", False), ("b.h5", True)):
        write_gold(tmp_path / name, GOLD)
        with h5py.File(tmp_path / name, "a") as file:
            place = file if scalars else file.attrs
            place["algo"], place["querytime"] = "brute", 1.5
        result, said = read_result(tmp_path / name)
        assert said == {"algo": "brute", "querytime": 1.5}
        assert np.array_equal(result.ids, GOLD.ids)


def test_differences_are_told_apart() -> None:
    assert compare_gold(GOLD, GOLD).equal
    other = neighbors([[4, 7, 2, 9], [1, 0, 3, 5]], [[0.1, 0.2, 0.2, 0.30000001], [0.0, 0.5, 0.6000001, 0.9]])
    found = compare_gold(GOLD, other)
    assert (found.ties, found.rounding, found.real, found.first) == (2, 1, 1, (1, 3))
    assert not found.equal
    assert not compare_gold(GOLD, neighbors([[1]], [[0]])).equal
    nan = neighbors(GOLD.ids, np.full((2, 4), np.nan))
    assert compare_gold(nan, nan).real == 8


@pytest.mark.parametrize(
    "kind", ["there is no such file", "not a readable HDF5", "no matrix 'dists'", "differ in shape"]
)
def test_what_is_wrong_is_said(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "g.h5"
    if kind == "not a readable HDF5":
        path.write_text("hello")
    elif kind != "there is no such file":
        with h5py.File(path, "w") as file:
            file["knns"] = GOLD.ids
            if kind == "differ in shape":
                file["dists"] = GOLD.dists[:, :3]
    with pytest.raises(InputError, match=kind):
        read_gold(path)
