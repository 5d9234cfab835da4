"""Ids that a file gives its rows, through every command: kept, or refused in one line, never replaced."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from gpuknn.cli.main import main
from gpuknn.gold import read_gold
from gpuknn.vectors import open_vectors
from gpuknn.vectors.ids import own_ids
from tests.oracle import knn

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
N, NQ, D, K = 400, 12, 6, 5
RNG = np.random.default_rng(0)
ROWS, ASKED = RNG.standard_normal((N, D)).astype("f4"), RNG.standard_normal((NQ, D)).astype("f4")
IDS, QUERY_IDS = RNG.permutation(N) + 1_000_000, RNG.permutation(NQ) + 70
EXACT = knn(ROWS, ASKED, K, "l2", "float32")[0]
SEARCH = ["-k", str(K), "--metric", "l2", "--quiet"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"id": IDS, "emb": list(ROWS)}), "db.parquet", row_group_size=90)
    pq.write_table(pa.table({"id": QUERY_IDS, "emb": list(ASKED)}), "q.parquet")
    return tmp_path


def ids_in(path: str) -> list[int]:
    found = own_ids(open_vectors(path).ids)
    return [] if found is None else np.concatenate(list(found.batches())).tolist()


def test_conversions_keep_ids(capsys: pytest.CaptureFixture[str]) -> None:
    for source, name, words in (
        ("db.parquet", "a.parquet", []),
        ("db.parquet", "a.h5", []),
        ("a.h5", "b.parquet", []),
        ("a.h5", "sisap.h5", ["--to", "sisap"]),
        ("sisap.h5:train", "ann.hdf5", ["--to", "ann-benchmarks"]),
        ("db.parquet", "part.parquet", ["--rows", "100:250"]),
        ("a.h5", "part.h5", ["--rows", "100:250"]),
    ):
        assert main(["convert", source, name, "--quiet", *words]) == 0
        there = f"{name}:train" if "--to" in words else name
        assert ids_in(there) == (IDS[100:250] if "--rows" in words else IDS).tolist()
        assert main(["compare", source, there, *([] if "--to" in words else words)]) == 0
    pq.write_table(pa.table({"id": IDS[::-1].copy(), "emb": list(ROWS)}), "other.parquet")
    capsys.readouterr()
    assert main(["compare", "db.parquet", "other.parquet"]) == 1
    assert f"first at row 0, which has the id {IDS[0]} beside {IDS[-1]}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["c.zarr", "c.npy", "c.fbin", "c.fvecs"])
def test_formats_without_a_place_for_ids(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "db.parquet", name]) == 2
    said = capsys.readouterr().err
    assert "db.parquet:id: gives the rows ids of their own" in said
    assert "leave the ids out with --ignore-ids" in said
    assert not Path(name).exists()
    assert main(["convert", "db.parquet", name, "--ignore-ids", "--quiet"]) == 0
    assert np.array_equal(open_vectors(name)[:], ROWS)


def test_answers_carry_ids(capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("g.h5", "g.ibin", "g.ivecs", "g.parquet"):
        assert main(["exact", "db.parquet", "q.parquet", "-o", output, *SEARCH]) == 0
    gold = read_gold("g.h5")
    assert np.array_equal(gold.ids, EXACT)
    assert gold.own_ids is not None
    assert np.array_equal(gold.own_ids, IDS[EXACT])
    for other in ("g.ibin", "g.ivecs", "g.parquet"):
        lines = np.argsort(QUERY_IDS) if other == "g.parquet" else np.arange(NQ)
        assert np.array_equal(read_gold(other).ids, IDS[EXACT][lines])
        assert main(["compare", "g.h5", other]) == 0
        assert "rows are told by the ids that the database's file gives" in capsys.readouterr().out
    for target in ("c.ibin", "c.ivecs", "c.parquet"):
        assert main(["convert", "g.h5", target]) == 0
        if target != "c.parquet":
            assert "the ids are those that the database's file gives" in capsys.readouterr().out
        assert main(["compare", "g.h5", target]) == 0
    for target, words in (("c.h5", []), ("s.h5", ["--to", "sisap"]), ("ann.hdf5", ["--to", "ann-benchmarks"])):
        assert main(["convert", "g.h5", target, "--quiet", *words]) == 0
        again = read_gold(target)
        assert np.array_equal(again.ids, EXACT)
        assert again.own_ids is not None
        assert np.array_equal(again.own_ids, IDS[EXACT])
        assert np.array_equal(again.query_ids, QUERY_IDS)  # type: ignore[arg-type]
    capsys.readouterr()
    with h5py.File("rows.h5", "w") as file:  # a result that numbers rows, as SISAP's files do
        file["knns"] = EXACT + 1
    assert main(["eval", "rows.h5", "g.h5", "-k", "5"]) == 0
    assert "recall@5: 1.000000 by ids" in capsys.readouterr().out


def test_ids_are_ignored_if_somebody_says_so() -> None:
    assert main(["exact", "db.parquet", "q.parquet", "--ignore-ids", "-o", "g.h5", *SEARCH]) == 0
    with h5py.File("g.h5") as file:
        assert set(file) == {"knns", "dists"}
        assert np.array_equal(file["knns"][:] - 1, EXACT)


@pytest.mark.parametrize("k", [3, 8])
def test_self_joins(k: int) -> None:
    words = ["exact", "db.parquet", "--metric", "l2", "-k", str(k), "--quiet", "-o"]
    assert main([*words, "out.h5", "--self"]) == 0
    assert main([*words, "first.h5", "--self-first"]) == 0
    left_out, first = read_gold("out.h5"), read_gold("first.h5")
    assert left_out.own_ids is not None
    assert first.own_ids is not None
    assert np.array_equal(left_out.own_ids, IDS[left_out.ids])
    assert np.array_equal(first.own_ids[:, 0], IDS)
    assert np.array_equal(first.query_ids, IDS)  # type: ignore[arg-type]
    assert np.array_equal(first.own_ids[:, 1:], left_out.own_ids[:, : k - 1])


@pytest.mark.parametrize("command", ["exact", "convert"])
def test_ids_that_cannot_be_honoured_are_refused_before_work(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"id": [f"row-{i}" for i in range(N)], "emb": list(ROWS)}), "text.parquet")
    words = ["exact", "text.parquet", "q.parquet", *SEARCH, "-o", "g.h5"]
    words = words if command == "exact" else ["convert", "text.parquet", "c.h5"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "text.parquet:id: its ids are text and not whole numbers; --ignore-ids numbers the rows from 0" in said
    assert said.count("\n") == 1
    assert main([*words, "--ignore-ids"]) == 0


def test_ids_that_a_format_cannot_hold_are_refused_before_work(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"id": IDS + 2**33, "emb": list(ROWS)}), "far.parquet")
    for name, limit in (("g.ibin", "4,294,967,295"), ("g.ivecs", "2,147,483,648")):
        assert main(["exact", "far.parquet", "q.parquet", "-o", name, *SEARCH]) == 2
        assert f"{name}: files of this kind hold ids below {limit}" in capsys.readouterr().err
    assert main(["exact", "far.parquet", "q.parquet", "-o", "g.parquet", *SEARCH]) == 0


def test_gold_of_ids_beside_rows_that_have_others(capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("g.h5", "g.parquet"):
        assert main(["exact", "db.parquet", "q.parquet", "-o", output, *SEARCH]) == 0
    beside = ["--to", "ann-benchmarks", "--queries-file", "q.parquet", "--quiet", "--gold"]
    assert main(["convert", "db.parquet", "set.hdf5", *beside, "g.parquet"]) == 2
    assert "g.parquet: tells no row numbers" in capsys.readouterr().err
    assert main(["convert", "db.parquet", "set.hdf5", *beside, "g.h5"]) == 0
    with h5py.File("set.hdf5") as file:
        assert np.array_equal(file["ids"][:], IDS)
        assert np.array_equal(file["query_ids"][:], QUERY_IDS)
        assert np.array_equal(file["neighbors"][:], EXACT)
        assert np.array_equal(file["neighbors_id"][:], IDS[EXACT])
    assert main(["exact", "set.hdf5:train", "set.hdf5:test", "-o", "again.h5", *SEARCH]) == 0
    assert main(["compare", "again.h5", "g.h5"]) == 0
    assert main(["compare", "again.h5", "set.hdf5"]) == 0


def test_put_together_files_keep_queries_and_their_answers_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exact", "db.parquet", "q.parquet", "-o", "g.h5", *SEARCH]) == 0
    order = RNG.permutation(NQ)
    pq.write_table(pa.table({"id": QUERY_IDS[order], "emb": list(ASKED[order])}), "other_order.parquet")
    pq.write_table(pa.table({"id": QUERY_IDS + 1, "emb": list(ASKED)}), "other_ids.parquet")
    pq.write_table(pa.table({"id": IDS[::-1].copy(), "emb": list(ROWS)}), "other_rows.parquet")
    words = ["--to", "ann-benchmarks", "--gold", "g.h5", "--quiet", "--queries-file"]
    assert main(["convert", "db.parquet", "set.hdf5", *words, "other_order.parquet"]) == 0
    with h5py.File("set.hdf5") as file:
        assert np.array_equal(file["query_ids"][:], QUERY_IDS[order])
        assert np.array_equal(file["test"][:], ASKED[order])
        assert np.array_equal(file["neighbors"][:], EXACT[order])
    for database, queries, said in (
        ("db.parquet", "other_ids.parquet", "answers queries of other ids than those given with --queries-file"),
        ("other_rows.parquet", "q.parquet", "it is about another database"),
    ):
        assert main(["convert", database, "bad.hdf5", *words, queries]) == 2
        assert said in capsys.readouterr().err
    assert not Path("bad.hdf5").exists()
    assert main(["convert", "db.parquet", "plain.hdf5", *words, "q.parquet", "--ignore-ids"]) == 0


@pytest.mark.parametrize("to", ["h5", "ann-benchmarks", "sisap"])
def test_places_of_ids_are_no_names_for_rows(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    beside = [] if to == "h5" else ["--queries-file", "q.parquet"]
    for key in (
        "ids",
        "a/ids",
        *([] if to == "h5" else ["query_ids" if to == "ann-benchmarks" else "itest/query_ids"]),
    ):
        words = ["convert", "db.parquet", "bad.h5", "--to", to, "--dst-key", key, *beside]
        assert main(words) == 2
        assert "is no name for an array, or another's" in capsys.readouterr().err
    assert not Path("bad.h5").exists()
    for key in ("rows", "queries", "a/test"):
        assert main(["convert", "db.parquet", "c.h5", "--dst-key", key, "--quiet", "--force"]) == 0
        assert ids_in(f"c.h5:{key}") == IDS.tolist()
        assert main(["compare", "db.parquet", f"c.h5:{key}"]) == 0


def test_rows_and_answers_are_not_cut_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exact", "db.parquet", "q.parquet", "-o", "g.h5", *SEARCH]) == 0
    for option in (["--rows", "10:400"], ["--normalize"], ["--scale", "2"]):
        words = ["convert", "db.parquet", "bad.h5", "--to", "sisap", "--gold", "g.h5", "--queries-file", "q.parquet"]
        assert main([*words, *option]) == 2
        assert f"{option[0]}: would change the rows and not q.parquet" in capsys.readouterr().err


def test_a_resumed_run_keeps_to_what_it_began_with(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["exact", "db.parquet", "q.parquet", "-o", "g.h5", *SEARCH]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpuknn.jobs.exact.run.written", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert main(words) == 3
    assert main([*words, "--ignore-ids"]) == 2
    assert "holds what another job has left (other: ids)" in capsys.readouterr().err


def test_ids_in_a_zarr_group(capsys: pytest.CaptureFixture[str]) -> None:
    group = zarr.open_group("g.zarr", mode="w")
    group.create_array("emb", data=ROWS)
    group.create_array("ids", data=IDS)
    assert main(["exact", "g.zarr:emb", "q.parquet", "-o", "z.h5", *SEARCH]) == 0
    assert main(["exact", "db.parquet", "q.parquet", "-o", "g.h5", *SEARCH]) == 0
    assert main(["compare", "z.h5", "g.h5"]) == 0
    assert "rows are told by the ids" in capsys.readouterr().out
