import resource
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.gold import Comparison, Gold, compare, evaluate, holds_gold, read_gold, write_gold
from gpuknn.gold.hdf5 import Hdf5Writer
from gpuknn.gold.writer import Outline, written
from tests import forks
from tests.answers import dists_of


def neighbors(ids: object, dists: object) -> Gold:
    return Gold(np.array(ids, np.int64), np.array(dists, np.float32))


GOLD = neighbors([[4, 2, 7, 9], [1, 0, 5, 3]], [[0.1, 0.2, 0.2, 0.3], [0.0, 0.5, 0.6, 0.7]])


def test_files_are_laid_out_as_published(tmp_path: Path) -> None:
    write_gold(tmp_path / "g.h5", GOLD, attributes={"metric": "cosine", "k": 4})
    with h5py.File(tmp_path / "g.h5") as file:
        assert set(file) == {"knns", "dists"}
        assert (file["knns"].dtype, file["dists"].dtype) == (np.int32, np.float32)
        assert file["knns"].shape == (2, 4)
        assert file["knns"][0].tolist() == [5, 3, 8, 10]
        assert dict(file.attrs) == {
            "metric": "cosine",
            "k": 4,
            "distance": "cosine",
            "dists_are": "1 - x.q / sqrt(|x|^2 |q|^2)",
        }
    again = read_gold(tmp_path / "g.h5")
    assert np.array_equal(again.ids, GOLD.ids)
    assert np.array_equal(dists_of(again), dists_of(GOLD))
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_ids_past_31_bits_are_kept(tmp_path: Path) -> None:
    write_gold(tmp_path / "g.h5", neighbors([[2**31 - 2]], [[0.0]]))
    assert h5py.File(tmp_path / "g.h5")["knns"].dtype == np.int32
    write_gold(tmp_path / "g.h5", neighbors([[2**31 - 1]], [[0.0]]), force=True)
    assert h5py.File(tmp_path / "g.h5")["knns"].dtype == np.int64
    assert read_gold(tmp_path / "g.h5").ids.tolist() == [[2**31 - 1]]


def test_nothing_appears_under_the_name_when_writing_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with written(tmp_path / "g.h5", Hdf5Writer, Outline((2, 4), 10, np.dtype("f4"))) as file:
            file.write(0, GOLD)
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_recall_by_ids_and_with_ties() -> None:
    result = neighbors([[4, 7, 2, 8], [1, 0, 5, 3]], np.zeros((2, 4)))
    assert gpuknn.recall(result, GOLD, k=2) == (1 / 2 + 1) / 2
    at_two = evaluate(result, GOLD, ks=2)[2]
    assert (at_two.by_ids, at_two.tie_aware, at_two.undecided) == (0.75, 1.0, 0)
    assert gpuknn.recall(result, GOLD) == (3 / 4 + 1) / 2
    assert evaluate(result, GOLD, ks=4)[4].undecided == 0
    assert evaluate(result, GOLD.first(3), ks=2)[2].undecided == 1
    repeated = neighbors([[4, 4, 4, 4], [9, 9, 9, 9]], np.zeros((2, 4)))
    assert gpuknn.recall(repeated, GOLD, k=4) == 1 / 8
    assert evaluate(repeated, GOLD, ks=4)[4].repeated == 2
    assert evaluate(result, GOLD, ks=4)[4].repeated == 0
    for k in (0, 5):
        with pytest.raises(InputError, match="k = "):
            gpuknn.recall(result, GOLD, k=k)
    with pytest.raises(InputError, match="answers 1 queries"):
        gpuknn.recall(neighbors([[1]], [[0]]), GOLD)


def test_a_gold_standard_that_repeats_its_last_neighbour_has_fewer() -> None:
    """As big-ann's filtered ground truths do in place of padding."""
    gold = replace(neighbors([[4, 2, 2, 2], [1, 0, 5, 3]], [[0.1, 0.2, 0.2, 0.2], [0.0, 0.5, 0.6, 0.7]]), distance="l2")
    found = evaluate(gold, gold, ks=4)[4]
    assert (found.by_ids, found.tie_aware, found.by_distances, found.short) == (1, 1, 1, 1)
    late = replace(neighbors([[-1, 5, 7], [1, 0, -1]], [[0, 1, 2], [0, 1, np.inf]]), distance="l2")
    found = evaluate(late, late, ks=3)[3]
    assert (found.by_ids, found.tie_aware, found.by_distances, found.short) == (1, 1, 1, 2)
    half = evaluate(neighbors([[4, 9, 8, 7], [1, 0, 5, 3]], np.full((2, 4), 9)), gold, ks=4)[4]
    assert half.by_ids == half.tie_aware == (1 / 2 + 1) / 2


def test_recall_goes_by_the_databases_own_ids() -> None:
    own = Gold(np.array([[3, 1]]), own_ids=np.array([[1003, 1001]]))
    assert gpuknn.recall(Gold(np.array([[1003, 1001]]), are_rows=False), own) == 1
    assert gpuknn.recall(gpuknn.Neighbors(np.array([[3, 1]]), np.zeros((1, 2))), own) == 1


def test_results_may_speak_in_attributes_or_scalars(tmp_path: Path) -> None:
    for name, scalars in (("a.h5", False), ("b.h5", True)):
        write_gold(tmp_path / name, GOLD)
        with h5py.File(tmp_path / name, "a") as file:
            place = file if scalars else file.attrs
            place["algo"], place["querytime"] = "brute", 1.5
        result = read_gold(tmp_path / name)
        assert result.said == {
            "algo": "brute",
            "querytime": 1.5,
            "distance": "unknown",
            "dists_are": "the source does not tell which distances or similarities these are",
        }
        assert np.array_equal(result.ids, GOLD.ids)


def compared(a: Gold, b: Gold) -> Comparison:
    found = compare(a, b)
    assert isinstance(found, Comparison)
    return found


def test_differences_are_told_apart() -> None:
    assert compared(GOLD, GOLD).equal
    other = neighbors([[4, 7, 2, 9], [1, 0, 3, 5]], [[0.1, 0.2, 0.2, 0.30000001], [0.0, 0.5, 0.6000001, 0.9]])
    found = compared(GOLD, other)
    assert (found.ties, found.rounding, found.real, found.first) == (2, 1, 1, (1, 3))
    assert not found.equal
    with pytest.raises(InputError, match="a answers 2 queries, b answers 1"):
        compared(GOLD, neighbors([[1]], [[0]]))
    first = compared(GOLD, other.first(2))
    assert (first.widths, first.entries, first.ties, first.first) == ((4, 2), 4, 1, (0, 1))
    assert compared(GOLD.first(3), GOLD).equal
    by_ids = compared(GOLD, Gold(other.ids))
    assert (by_ids.ids_only, by_ids.ids, by_ids.ties, by_ids.first) == (True, 4, 0, (0, 1))
    assert compared(GOLD, Gold(GOLD.ids)).equal
    nan = neighbors(GOLD.ids, np.full((2, 4), np.nan))
    assert compared(nan, nan).real == 8


@pytest.mark.parametrize("kind", ["link", "storage", "virtual", "group", "scalar"])
def test_nothing_is_read_from_other_files(kind: str, tmp_path: Path) -> None:
    write_gold(tmp_path / "other.h5", GOLD)
    (tmp_path / "secret").write_bytes(bytes(32))
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["dists"] = dists_of(GOLD)
        if kind == "link":
            file["knns"] = h5py.ExternalLink("other.h5", "knns")
        elif kind == "storage":
            file.create_dataset("knns", (2, 4), "i4", external=[(str(tmp_path / "secret"), 0, 32)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, 4), "i4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "knns", (2, 4))
            file.create_virtual_dataset("knns", layout)
        elif kind == "group":
            file["itest"] = h5py.ExternalLink("other.h5", "/")
        else:
            file["knns"] = GOLD.ids + 1
            stored = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            stored.set_external(str(tmp_path / "secret").encode(), 0, 32)
            h5py.h5d.create(file.id, b"params", h5py.h5t.NATIVE_INT32, h5py.h5s.create(h5py.h5s.SCALAR), stored)
    if kind == "scalar":
        assert read_gold(tmp_path / "g.h5").said == {}
        return
    with pytest.raises(InputError, match=r"g.h5:(knns|itest): keeps its .* in another file"):
        read_gold(f"{tmp_path}/g.h5" + ":itest" * (kind == "group"))


def gold_parquet(path: Path, ids: object, lists: object) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"id": ids, "neighbors_id": lists}), path)
    return path


@pytest.mark.parametrize("name", ["g.parquet", "g.pq", "G.PQ"])
def test_parquet_in_any_order(name: str, tmp_path: Path) -> None:
    path = gold_parquet(tmp_path / name, [2, 0, 1], [[5, 6], [1, 2], [3, 4]])
    assert holds_gold(path)
    assert read_gold(path).ids.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert not holds_gold(tmp_path / "none.pq")


@pytest.mark.parametrize(
    ("ids", "lists", "words"),
    [
        ([str(i) for i in range(11)], [[i] for i in range(11)], "its ids are not the queries' ids, whole numbers"),
        ([0, None, 2], [[1], [2], [3]], "its ids are not"),
        ([2, 0, 2], [[1], [2], [3]], "its ids are not the queries' ids: 2 stands twice"),
        ([0.0, 1.0, 2.0], [[1], [2], [3]], "its ids are not"),
        ([0, 1, 2], [[1], None, [3]], r"row 1 \(counted from 0\) has no list"),
        ([0, 1, 2], [[1], [None], [3]], "not integers of one length"),
        ([0, 1, 2], [[1], [], [3]], "not integers of one length"),
        ([], [], "not integers of one length|its ids are not|cannot be read"),
    ],
)
def test_parquet_whose_answers_would_go_to_other_queries(
    ids: object, lists: object, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        read_gold(gold_parquet(tmp_path / "g.parquet", ids, lists))


def test_parquet_is_written_with_wide_offsets(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_gold(tmp_path / "g.parquet", GOLD)
    assert str(pq.read_schema(tmp_path / "g.parquet").field("neighbors_id").type).startswith("large_list")
    assert np.array_equal(read_gold(tmp_path / "g.parquet").ids, GOLD.ids)


@pytest.mark.parametrize(
    "kind", ["there is no such file", "not a readable HDF5", "g.h5:knns: is no matrix", "differs in shape"]
)
def test_what_is_wrong_is_said(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "g.h5"
    if kind == "not a readable HDF5":
        path.write_text("hello")
    elif kind != "there is no such file":
        with h5py.File(path, "w") as file:
            if kind == "differs in shape":
                file["knns"], file["dists"] = GOLD.ids + 1, dists_of(GOLD)[:, :3]
    with pytest.raises(InputError, match=kind):
        read_gold(path)


def convert_on_a_small_disk(size: int, words: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return main(["convert", *words])


@pytest.mark.parametrize("size", [3_000, 50_000, 72_000, 81_000])
@pytest.mark.parametrize(
    "words", ["gold.h5 o.h5", "gold.h5 o.hdf5 --to ann-benchmarks", "db.npy o.h5 --to sisap --gold gold.h5"]
)
def test_a_disk_that_is_too_small_is_no_crash(
    words: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 ends the process if it cannot write what it holds when it closes a file."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ids, dists = rng.integers(0, 100, (100, 90)), np.sort(rng.random((100, 90), np.float32), axis=1)
    write_gold(tmp_path / "gold.h5", neighbors(ids, dists), attributes={"metric": "l2", "distance": "l2"})
    np.save(tmp_path / "db.npy", rng.standard_normal((100, 8)).astype("f4"))
    done = forks.run(convert_on_a_small_disk, size, words.split())
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["db.npy", "gold.h5"]


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_files_that_this_process_has_open(mode: str, tmp_path: Path) -> None:
    """As in a notebook; HDF5 refuses a second opening of a file whose locks differ."""
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    found = gpuknn.exact_knn(rows, k=3)
    write_gold(tmp_path / "gold.h5", found)
    gpuknn.convert(tmp_path / "rows.npy", tmp_path / "rows.h5")
    with h5py.File(tmp_path / "gold.h5", mode), h5py.File(tmp_path / "rows.h5", mode):
        assert gpuknn.recall(found, read_gold(tmp_path / "gold.h5")) == 1
        assert holds_gold(tmp_path / "gold.h5")
        assert not holds_gold(tmp_path / "rows.h5")
        assert compare(tmp_path / "rows.h5").equal
