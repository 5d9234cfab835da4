"""gpuknn's files by the rules of four other projects, and their files through `gpuknn eval`.

The exact answer must be given 1.0 and a random one about k/n, whichever way it goes.
"""

import json
import struct
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from gpuknn.gold import Gold, read_gold, save_gold
from tests import peers
from tests.oracle import knn

N, NQ, K, WIDE = 2_000, 50, 10, 40
CHANCE = 4 * K / N
"""Above what a random answer is ever given here; the mean is a quarter of it."""
needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def random_answer(n: int = N) -> np.ndarray:
    rng = np.random.default_rng(9)
    return np.array([rng.permutation(n)[:K] for _ in range(NQ)])


def data(metric: str, bits: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Rows and queries; for hamming booleans.  The norms are small, where a square is far below its root."""
    rng = np.random.default_rng(3)
    if metric == "hamming":
        return rng.random((N, bits)) < 0.5, rng.random((NQ, bits)) < 0.5
    shape = (N, 12)
    return 0.1 * rng.standard_normal(shape, np.float32), 0.1 * rng.standard_normal((NQ, 12), np.float32)


def search(metric: str, database: str, queries: str, output: str, k: int = WIDE) -> None:
    words = ["exact", database, queries, "-k", str(k), "--metric", metric, "-o", output, "--quiet"]
    assert main(words) == 0


def recall(capsys: pytest.CaptureFixture[str], result: str, gold: str) -> float:
    """With ties; there are none, so that by ids it is the same, and by distances, if these are told, about the same."""
    capsys.readouterr()
    assert main(["eval", result, gold, "-k", str(K), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["recall"]
    assert found["by_distances"] in (None, 1) or found["by_distances"] < CHANCE
    assert found["by_ids"] <= found["tie_aware"]
    return float(found["tie_aware"])


def write_result(name: str, ids: np.ndarray, first_id: int = 1) -> str:
    with h5py.File(name, "w") as file:
        file["knns"] = (ids + first_id).astype("i4")
    return name


def test_sketches_of_other_widths_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    """100 and 120 bits both take two words."""
    for bits in (100, 120):
        rows, asked = data("hamming", bits)
        np.save(f"db{bits}.npy", rows)
        np.save(f"q{bits}.npy", asked)
        search("hamming", f"db{bits}.npy", f"q{bits}.npy", f"gold{bits}.h5")
    assert main(["exact", "db100.npy", "q120.npy", "--metric", "hamming", "-o", "o.h5"]) == 2
    assert "queries have 120 bits, the rows of db100.npy have 100" in capsys.readouterr().err
    words = ["convert", "db100.npy", "set.hdf5", "--to", "ann-benchmarks"]
    beside = ["--to", "ann-benchmarks", "--queries-file", "q120.npy", "--gold", "gold120.h5", "--quiet"]
    assert main(["convert", "db120.npy", "ann120.hdf5", *beside]) == 0
    for beside, said in (
        (["--queries-file", "q120.npy"], "q120.npy: has sketches of 120 bits, the rows have 100"),
        (
            ["--queries-file", "q100.npy", "--gold", "gold120.h5"],
            "gold120.h5: is about sketches of 120 bits, the rows have",
        ),
        (
            ["--queries-file", "q100.npy", "--gold", "ann120.hdf5"],
            "ann120.hdf5: is about sketches of 120 bits, the rows have",
        ),
    ):
        assert main([*words, *beside]) == 2
        assert said in capsys.readouterr().err
    assert not Path("set.hdf5").exists()


@pytest.mark.parametrize("metric", ["l2", "cosine", "hamming"])
def test_ann_benchmarks(metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, asked = data(metric)
    np.save("db.npy", rows)
    np.save("q.npy", asked)
    search(metric, "db.npy", "q.npy", "gold.h5")
    beside = ["--queries-file", "q.npy", "--gold", "gold.h5", "--quiet"]
    assert main(["convert", "db.npy", "set.hdf5", "--to", "ann-benchmarks", *beside]) == 0
    exact = read_gold("gold.h5").ids[:, :K]
    assert peers.ann_benchmarks_recall(Path("set.hdf5"), exact, K) == 1
    assert peers.ann_benchmarks_recall(Path("set.hdf5"), random_answer(), K) < CHANCE
    with h5py.File("set.hdf5") as file:
        assert file["train"].dtype == rows.dtype
        assert np.array_equal(file["train"][:], rows)
        assert np.array_equal(file["test"][:], asked)
        told = {"l2": "euclidean", "cosine": "angular", "hamming": "hamming"}[metric]
        assert (file.attrs["distance"], file.attrs["dimension"]) == (told, rows.shape[1])
        assert file.attrs["point_type"] == ("bit" if metric == "hamming" else "float")
    assert recall(capsys, "gold.h5", "set.hdf5") == 1
    assert recall(capsys, write_result("random.h5", random_answer()), "set.hdf5") < CHANCE
    search(metric, "set.hdf5:train", "set.hdf5:test", "again.h5")  # their files are databases, too
    assert main(["compare", "again.h5", "gold.h5"]) == 0
    assert main(["compare", "again.h5", "set.hdf5"]) == 0
    assert main(["compare", "db.npy", "set.hdf5:train"]) == 0


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_ann_benchmarks_computes_in_what_it_finds(metric: str, dtype: str) -> None:
    """Differences of bytes turn around, and squares of 1,000 overflow float16: rows become float32."""
    rng = np.random.default_rng(3)
    low, high = {"uint8": (0, 256), "int8": (-128, 128), "float16": (-1000, 1000)}[dtype]
    rows, asked = (rng.integers(low, high, (n, 12)).astype(dtype) for n in (N, NQ))
    np.save("db.npy", rows)
    np.save("q.npy", asked)
    exact, dists = knn(rows, asked, K, metric, "float32")
    save_gold(Gold(exact, dists, metric), "h5", Path("gold.h5"), None, {})
    beside = ["--queries-file", "q.npy", "--gold", "gold.h5", "--quiet"]
    assert main(["convert", "db.npy", "set.hdf5", "--to", "ann-benchmarks", *beside]) == 0
    with h5py.File("set.hdf5") as file:
        assert file["train"].dtype == file["test"].dtype == np.float32
        assert np.array_equal(file["train"][:], rows)
        assert np.array_equal(file["test"][:], asked)
    assert peers.ann_benchmarks_recall(Path("set.hdf5"), exact, K) == 1
    assert peers.ann_benchmarks_recall(Path("set.hdf5"), random_answer(), K) < CHANCE
    assert main(["convert", "db.npy", "bad.hdf5", "--to", "ann-benchmarks", "--dtype", dtype]) == 2


def test_ann_benchmarks_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """As their scripts write it: roots in float32, of products in float32."""
    rows, asked = data("l2")
    far = np.sqrt(((asked[:, None].astype("f4") - rows[None]) ** 2).sum(axis=2))
    ids = np.argsort(far, axis=1)[:, :WIDE]
    with h5py.File("theirs.hdf5", "w") as file:
        file["train"], file["test"], file["neighbors"] = rows, asked, ids.astype("i4")
        file["distances"] = np.take_along_axis(far, ids, axis=1)
        file.attrs.update({"distance": "euclidean", "point_type": "float"})
    search("l2", "theirs.hdf5:train", "theirs.hdf5:test", "gold.h5")
    assert recall(capsys, "gold.h5", "theirs.hdf5") == 1
    assert recall(capsys, "theirs.hdf5", "gold.h5") == 1
    assert recall(capsys, write_result("random.h5", random_answer()), "theirs.hdf5") < CHANCE
    assert main(["eval", "gold.h5", "theirs.hdf5", "-k", str(K)]) == 0
    assert "1.000000 by distances to within 0.001" in capsys.readouterr().out


def test_ann_benchmarks_knows_no_inner_products(capsys: pytest.CaptureFixture[str]) -> None:
    rows, asked = data("ip")
    np.save("db.npy", rows)
    np.save("q.npy", asked)
    search("ip", "db.npy", "q.npy", "gold.h5")
    beside = ["--queries-file", "q.npy", "--gold", "gold.h5"]
    assert main(["convert", "db.npy", "set.hdf5", "--to", "ann-benchmarks", *beside]) == 2
    assert main(["convert", "gold.h5", "set.hdf5", "--to", "ann-benchmarks"]) == 2
    assert capsys.readouterr().err.count("ann-benchmarks knows no inner products; --to sisap holds them") == 2
    assert [p.name for p in Path().iterdir() if "set" in p.name] == []


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_big_ann(metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, asked = data(metric)
    for name, values in (("db.fbin", rows), ("q.fbin", asked)):
        Path(name).write_bytes(struct.pack("<II", *values.shape) + values.tobytes())
    search(metric, "db.fbin", "q.fbin", "gt.ibin")
    truth = peers.big_ann_truth(Path("gt.ibin"))
    falls = np.diff(truth[1], axis=1) <= 0 if metric == "ip" else np.diff(truth[1], axis=1) >= 0
    assert falls.all()
    exact = knn(rows, asked, WIDE, metric, "float32")[0]
    assert peers.big_ann_recall(truth, exact[:, :K], K) == 1
    assert peers.big_ann_recall(truth, random_answer(), K) < CHANCE
    assert recall(capsys, write_result("exact.h5", exact[:, :K]), "gt.ibin") == 1
    assert recall(capsys, write_result("random.h5", random_answer()), "gt.ibin") < CHANCE
    np.save("run.npy", exact[:, :K].astype(np.int32))  # as their runner keeps an answer
    assert recall(capsys, "run.npy", "gt.ibin") == 1


@pytest.mark.parametrize("stored", ["squares", "roots", "heap order"])
def test_a_random_answer_by_distances(stored: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No neighbour is in both files, so that nothing but words tells which distances they are."""
    rows, asked = data("l2")
    rows, asked = 300 * rows, 300 * asked
    np.save("db.npy", rows)
    np.save("q.npy", asked)
    search("l2", "db.npy", "q.npy", "gold.h5")
    exact = read_gold("gold.h5").ids
    wrong = np.array([np.setdiff1d(random, true)[: K - 4] for random, true in zip(random_answer(), exact, strict=True)])
    far = ((rows[wrong].astype("f8") - asked[:, None]) ** 2).sum(axis=2)
    order = np.argsort(far, axis=1)[:, :: -1 if stored == "heap order" else 1]
    wrong, far = np.take_along_axis(wrong, order, axis=1), np.take_along_axis(far, order, axis=1)
    np.savez("run.npz", I=wrong, D=np.sqrt(far) if stored == "roots" else far)
    assert main(["eval", "run.npz", "gold.h5", "-k", str(K - 4), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["recall"]
    assert (found["by_ids"], found["tie_aware"], found["by_distances"]) == (0, 0, None)
    if stored == "squares":
        save_gold(Gold(wrong, far, "l2"), "h5", Path("told.h5"), None, {})
        assert main(["eval", "told.h5", "gold.h5", "-k", str(K - 4), "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["recall"]
        assert found["by_distances"] == 0


@needs_pyarrow
@pytest.mark.parametrize("kind", ["numbered", "shuffled", "from a million"])
def test_vectordbbench(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, asked = data("cosine")
    rng = np.random.default_rng(1)
    ids = {"numbered": np.arange(N), "shuffled": rng.permutation(N), "from a million": np.arange(N) + 1_000_000}[kind]
    query_ids = np.arange(NQ) if kind == "numbered" else rng.permutation(NQ) + 7
    pq.write_table(pa.table({"id": ids, "emb": list(rows)}), "train.parquet", row_group_size=300)
    pq.write_table(pa.table({"id": query_ids, "emb": list(asked)}), "test.parquet")
    exact = ids[knn(rows, asked, K, "cosine", "float32")[0]]  # by name, as their clients return them
    search("cosine", "train.parquet", "test.parquet", "neighbors.parquet", k=K)
    search("cosine", "train.parquet", "test.parquet", "gold.h5", k=K)
    by_place = ids[random_answer()]
    assert peers.vectordbbench_recall(Path("neighbors.parquet"), exact, K) == 1
    assert peers.vectordbbench_recall(Path("neighbors.parquet"), by_place, K) < CHANCE
    assert pq.read_table("neighbors.parquet")["id"].to_pylist() == query_ids.tolist()
    with h5py.File("gold.h5") as file:
        assert np.array_equal(file["knns"][:] - 1, knn(rows, asked, K, "cosine", "float32")[0])
        assert ("ids" in file, "query_ids" in file) == ((False, False) if kind == "numbered" else (True, True))
        if "ids" in file:
            assert file["ids"].dtype == np.int64
            assert np.array_equal(file["ids"][:], exact)
            assert np.array_equal(file["query_ids"][:], query_ids)
    # Their truth, its lines in another order, through our eval.
    order = rng.permutation(NQ)
    theirs = pa.table({"id": query_ids[order], "neighbors_id": list(exact[order])})
    pq.write_table(theirs, "theirs.parquet")
    pq.write_table(pa.table({"id": query_ids, "neighbors_id": list(by_place)}), "random.parquet")
    for gold in ("theirs.parquet", "gold.h5", "neighbors.parquet"):
        assert recall(capsys, "neighbors.parquet", gold) == 1
        if kind != "numbered" or gold != "theirs.parquet":  # a gold.h5 without ids of queries is told by its order
            assert recall(capsys, "gold.h5", gold) == 1
        assert recall(capsys, "random.parquet", gold) < CHANCE
    np.save("run.npy", exact)
    assert recall(capsys, "run.npy", "gold.h5") == 1


@needs_pyarrow
def test_lines_in_another_order_are_not_matched_by_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1, 0], "neighbors_id": [[3], [4]]}), "gold.parquet")
    np.save("run.npy", np.array([[4], [3]]))
    assert main(["eval", "run.npy", "gold.parquet", "-k", "1"]) == 2
    assert "its lines are not in the order of the queries' ids" in capsys.readouterr().err
    assert main(["convert", "gold.parquet", "c.ivecs"]) == 2
    assert "for which ivecs has no place" in capsys.readouterr().err
    write_result("a.h5", np.array([[4], [3]]))
    with h5py.File("a.h5", "a") as file:
        file["query_ids"] = [0, 1]
    assert main(["eval", "a.h5", "gold.parquet", "-k", "1"]) == 0
    assert "recall@1: 1.000000 by ids" in capsys.readouterr().out
    with h5py.File("a.h5", "a") as file:
        file["query_ids"][:] = [0, 2]
    assert main(["eval", "a.h5", "gold.parquet", "-k", "1"]) == 2
    assert "gold.parquet answers a query of the id 1, a.h5 does not" in capsys.readouterr().err


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_sisap(metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, asked = data(metric)
    np.save("db.npy", rows)
    np.save("q.npy", asked)
    search(metric, "db.npy", "q.npy", "gold.h5")
    exact = knn(rows, asked, K, metric, "float32")[0]
    write_result("exact.h5", exact)
    write_result("random.h5", random_answer())
    assert peers.sisap_recall(Path("exact.h5"), Path("gold.h5"), K) == 1
    assert peers.sisap_recall(Path("random.h5"), Path("gold.h5"), K) < CHANCE
    assert recall(capsys, "exact.h5", "gold.h5") == 1
    assert recall(capsys, "random.h5", "gold.h5") < CHANCE
    beside = ["--queries-file", "q.npy", "--gold", "gold.h5", "--quiet"]
    assert main(["convert", "db.npy", "bench.h5", "--to", "sisap", *beside]) == 0
    assert recall(capsys, "exact.h5", "bench.h5:itest") == 1
    assert recall(capsys, "random.h5", "bench.h5:itest") < CHANCE
    search(metric, "bench.h5", "bench.h5:itest/queries", "again.h5")
    assert main(["compare", "again.h5", "bench.h5:itest"]) == 0
