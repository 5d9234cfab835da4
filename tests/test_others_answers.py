"""Gold standards and results of others through the commands: what they hold is what is said of them."""

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpuknn.cli import convert
from gpuknn.cli.main import main
from gpuknn.gold import Gold, distances, read_gold, save_gold
from tests import oracle
from tests.answers import dists_of

N, NQ, D, K = 500, 20, 8, 10
RNG = np.random.default_rng(0)
ROWS, ASKED = RNG.standard_normal((N, D)).astype("f4"), RNG.standard_normal((NQ, D)).astype("f4")
RANDOM = np.array([RNG.permutation(N)[:K] for _ in range(NQ)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def truth(metric: str, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """Ids from 0 and float32 distances, by the oracle."""
    return oracle.knn(ROWS, ASKED, k, metric, "float32")


def figures(capsys: pytest.CaptureFixture[str], result: str, gold: str, *words: str, k: int = K) -> dict[str, Any]:
    """What `eval --json` says at k."""
    assert main(["eval", result, gold, "-k", str(k), "--json", *words]) == 0
    (found,) = json.loads(capsys.readouterr().out)["recall"]
    return dict(found)


def ibin(path: str, ids: np.ndarray, dists: np.ndarray | None = None) -> str:
    content = struct.pack("<II", *ids.shape) + ids.astype("<i4").tobytes()
    Path(path).write_bytes(content + (b"" if dists is None else dists.astype("<f4").tobytes()))
    return path


def hdf5(path: str, **arrays: np.ndarray) -> str:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
    return path


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_similarities_descend(metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As big-ann-benchmarks writes inner products; the exact answer was given 0.10 and 0.01."""
    ids, dists = truth(metric, 50)
    similar = -dists if metric == "ip" else 1 - dists
    gold = ibin("gt.ibin", ids, similar)
    exact = hdf5("exact.h5", knns=ids[:, :K] + 1, dists=dists[:, :K])
    for k in (1, K):
        assert figures(capsys, exact, gold, k=k)["tie_aware"] == 1
    assert figures(capsys, hdf5("random.h5", knns=RANDOM + 1), gold)["tie_aware"] < 0.1
    assert main(["eval", exact, gold]) == 0
    assert "gt.ibin: holds similarities, the largest first\n" in capsys.readouterr().out
    if metric == "ip":
        assert main(["compare", exact, gold]) == 0
        assert "equal of the first 10 of 50 neighbours: 200 ids and distances" in capsys.readouterr().out
        assert main(["convert", gold, "back.h5", "--distance", "ip", "--quiet"]) == 0
        assert read_gold("back.h5").distance == "ip"
        assert dists_of(read_gold("back.h5")).tobytes() == dists.tobytes()
        assert main(["convert", "back.h5", "again.ibin", "--quiet"]) == 0
        assert Path("again.ibin").read_bytes() == Path(gold).read_bytes()


def test_distances_that_are_in_no_order(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    exact = hdf5("exact.h5", knns=ids + 1, dists=dists)
    mixed = dists.copy()
    mixed[7, [2, 5]] = mixed[7, [5, 2]]
    unknown = dists.copy()
    unknown[9, 4] = np.nan
    for bad, words in (
        (mixed, "query 7 (counted from 0) do not ascend"),
        (unknown, "query 9 (counted from 0) hold NaN at rank 4"),
    ):
        assert main(["eval", exact, hdf5("bad.h5", knns=ids + 1, dists=bad), "-k", "10"]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
        assert figures(capsys, "bad.h5", exact)["by_ids"] == 1  # a result may be in any order


@pytest.mark.parametrize("name", ["g.h5", "ann.hdf5", "g.ivecs", "g.ibin", "g.npy", "g.npz", "g.parquet"])
def test_padding_is_no_id(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Gold and result have -1 from some rank on; where they agree in nothing else, nothing was found."""
    ids, dists = truth("l2")

    def write(name: str, ids: np.ndarray) -> str:
        if name.endswith("ivecs"):
            Path(name).write_bytes(b"".join(struct.pack(f"<i{K}i", K, *line) for line in ids.tolist()))
        elif name.endswith("ibin"):
            ibin(name, ids)
        elif name.endswith("npy"):
            np.save(name, ids)
        elif name.endswith("npz"):
            np.savez(name, I=ids, D=dists)
        elif name.endswith("parquet"):
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.table({"id": np.arange(NQ), "neighbors_id": list(ids)}), name)
        elif name.endswith("hdf5"):
            hdf5(name, neighbors=ids)
        else:
            hdf5(name, knns=np.where(ids < 0, -1, ids + 1))
        return name

    short, other = ids.copy(), (ids + 1) % N
    short[:, 6:], other[:, 6:] = -1, -1
    other[:, :6] = np.array([np.setdiff1d(np.arange(N), line)[:6] for line in ids])
    gold, result = write(name, short), write(f"other{name}", other)
    assert figures(capsys, result, gold)["by_ids"] == 0
    exact = hdf5("exact.h5", knns=ids + 1)
    found = figures(capsys, exact, gold)
    assert (found["by_ids"], found["tie_aware"], found["short"]) == (1, 1, NQ)
    assert figures(capsys, gold, exact)["by_ids"] == 6 / 10
    none = short.copy()
    none[3] = -1
    assert figures(capsys, result, write(f"none{name}", none))["by_ids"] == 1 / NQ
    for target in ("c.ibin", "c.ivecs"):
        assert main(["convert", gold, target, "--quiet", "--force"]) == 0
        assert np.array_equal(np.fromfile(target, "<i4")[2 if target == "c.ibin" else 1 :][6:10], [-1] * 4)
        assert np.array_equal(read_gold(target).ids, short)


def test_zero_in_knns_is_padding_at_the_end_only(capsys: pytest.CaptureFixture[str]) -> None:
    ids, _ = truth("l2")
    assert main(["eval", hdf5("zero.h5", knns=np.where(ids == ids[3, 4], 0, ids + 1)), "zero.h5"]) == 2
    assert "has the id 0 at rank" in capsys.readouterr().err


def test_ids_only_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2", 30)
    hdf5("ids.h5", knns=ids + 1)
    hdf5("wide.h5", knns=ids + 1, dists=dists)
    hdf5("bench.h5", train=ROWS, itest__queries=ASKED, itest__knns=ids + 1, itest__dists=dists, otest__knns=RANDOM + 1)
    hdf5("alone.h5", itest__knns=ids + 1, itest__dists=dists)
    for gold in ("ids.h5", "wide.h5", "bench.h5:itest", "alone.h5"):
        assert figures(capsys, "ids.h5", gold)["by_ids"] == 1
        assert figures(capsys, "bench.h5:otest", gold)["by_ids"] < 0.1
        assert main(["compare", "ids.h5", gold]) == 0
        capsys.readouterr()
    assert main(["eval", "ids.h5", "bench.h5"]) == 2
    assert "several gold standards; name one of bench.h5:itest, bench.h5:otest" in capsys.readouterr().err
    assert main(["eval", "ids.h5", "bench.h5:nope"]) == 2
    assert "has no group 'nope'" in capsys.readouterr().err
    assert main(["convert", "ids.h5", "c.ivecs", "--quiet"]) == 0
    assert np.array_equal(read_gold("c.ivecs").ids, ids)
    assert main(["convert", "bench.h5:itest", "c.ibin", "--quiet"]) == 0
    assert np.array_equal(read_gold("c.ibin").ids, ids)


def test_one_file_twice(capsys: pytest.CaptureFixture[str]) -> None:
    hdf5("bench.h5", train=ROWS, itest__queries=ASKED)
    np.save("db.npy", ROWS)
    Path("link.npy").symlink_to("db.npy")
    words = ["-k", "3", "-o", "out.h5", "--metric", "l2", "--quiet"]
    for database, queries, line in (
        ("bench.h5", "bench.h5", "name its queries (bench.h5:itest/queries), or say --self"),
        ("bench.h5:train", "bench.h5:/train", "bench.h5:itest/queries"),
        ("db.npy", "link.npy", "is named as the database and as the queries; say --self"),
        ("db.npy", "bench.h5", "holds rows and queries; name the queries: bench.h5:itest/queries"),
    ):
        assert main(["exact", database, queries, *words]) == 2
        assert line in capsys.readouterr().err
    assert not Path("out.h5").exists()
    assert main(["exact", "bench.h5", "bench.h5:itest/queries", *words]) == 0
    assert np.array_equal(read_gold("out.h5").ids, truth("l2", 3)[0])


@pytest.mark.parametrize("name", ["g.ibin", "g.bin", "g.ivecs", "g.parquet", "g.hdf5"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_exact_writes_what_the_name_says(name: str, metric: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    np.save("db.npy", ROWS)
    np.save("q.npy", ASKED)
    ids, dists = truth(metric)
    assert main(["exact", "db.npy", "q.npy", "-k", str(K), "--metric", metric, "-o", name, "--quiet"]) == 0
    found = read_gold(name)
    assert np.array_equal(found.ids, ids)
    if name.endswith("bin"):
        stored = -dists if metric == "ip" else dists  # big-ann's inner products are positive, the largest first
        assert Path(name).read_bytes() == Path(ibin("hand.ibin", ids, stored)).read_bytes()
    elif name.endswith("hdf5"):
        assert dists_of(found).tobytes() == dists.tobytes()
        assert found.distance == metric
    else:
        assert found.dists is None
        assert h5py.is_hdf5(name) is False


def test_a_prefix_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2", 100)
    hdf5("wide.h5", knns=ids + 1, dists=dists)
    hdf5("narrow.h5", knns=ids[:, :K] + 1, dists=dists[:, :K])
    assert main(["compare", "wide.h5", "narrow.h5"]) == 0
    assert capsys.readouterr().out == "equal of the first 10 of 100 neighbours: 200 ids and distances\n"
    assert figures(capsys, "wide.h5", "narrow.h5")["tie_aware"] == 1
    other = ids[:, :K].copy()
    other[4, 2] = 0 if 0 not in ids[4] else N - 1
    assert main(["compare", "wide.h5", hdf5("other.h5", knns=other + 1)]) == 1
    assert "of 200 entries 1 are other ids; one of the two has no distances\nfirst: query 4, rank 2" in (
        capsys.readouterr().out
    )


def test_an_honest_float32_truth(capsys: pytest.CaptureFixture[str]) -> None:
    """As FAISS computes it: |x|^2 - 2 x.q + |q|^2 in float32; some ids at the last rank are others by rounding."""
    centres = RNG.standard_normal((20, D))[RNG.integers(0, 20, N)]
    rows = (centres + 1e-6 * RNG.standard_normal((N, D)) + 3).astype("f4")
    ids, dists = oracle.knn(rows, ASKED, K, "l2", "float32")
    cheap = (rows**2).sum(1) - 2 * ASKED @ rows.T + (ASKED**2).sum(1)[:, None]
    order = np.argsort(cheap, axis=1)[:, :K]
    faiss = np.take_along_axis(cheap, order, axis=1)
    save_gold(Gold(ids, dists, "l2"), "h5", Path("exact.h5"), None, {})
    np.savez("faiss.npz", I=order, D=faiss)
    for pair in (("faiss.npz", "exact.h5"), ("exact.h5", "faiss.npz")):
        found = figures(capsys, *pair)
        assert found["tie_aware"] < 1
        assert (found["by_distances"], found["epsilon"]) == (1, 1e-3)
    assert figures(capsys, "faiss.npz", "exact.h5", "--epsilon", "0")["by_distances"] < 1


def test_ids_that_are_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    hdf5("gold.h5", knns=ids + 1, dists=dists)
    repeated = ids.copy()
    repeated[5] = ids[5, 0]
    found = figures(
        capsys, hdf5("r.h5", knns=repeated + 1, dists=np.broadcast_to(dists[:, :1], dists.shape)), "gold.h5"
    )
    assert found["repeated"] == 1
    assert found["by_ids"] == found["tie_aware"] == 191 / 200
    assert main(["eval", "r.h5", "gold.h5", "-k", "10"]) == 0
    assert "1 queries have an id more than once, which was counted once" in capsys.readouterr().out


def test_squares_are_not_compared_with_roots(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    save_gold(Gold(ids, dists, "l2"), "h5", Path("squares.h5"), None, {})
    assert main(["convert", "squares.h5", "roots.hdf5", "--to", "ann-benchmarks", "--quiet"]) == 0
    assert main(["compare", "squares.h5", "roots.hdf5"]) == 0
    assert main(["convert", "roots.hdf5", "kept.h5", "--quiet"]) == 0
    with h5py.File("kept.h5") as file:
        assert file.attrs["distance"] == "euclidean"
        assert file.attrs["dists_are"] == "|x - q|, the root"
    assert main(["compare", "squares.h5", "kept.h5"]) == 0
    capsys.readouterr()
    hdf5("untold.h5", knns=ids + 1, dists=np.sqrt(dists))
    assert figures(capsys, "untold.h5", "squares.h5")["by_distances"] is None
    assert main(["eval", "untold.h5", "squares.h5"]) == 0
    assert "distances are of two kinds, and were not compared" in capsys.readouterr().out
    assert main(["compare", "untold.h5", "squares.h5"]) == 1
    assert "the two may be of two kinds, as roots and squares" in capsys.readouterr().out
    assert figures(capsys, "kept.h5", "squares.h5")["by_distances"] == 1
    assert main(["convert", "untold.h5", "ann.hdf5", "--to", "ann-benchmarks"]) == 2
    assert "does not tell which distances it holds; say it with --distance" in capsys.readouterr().err
    assert main(["convert", "squares.h5", "ann.hdf5", "--to", "ann-benchmarks", "--distance", "cosine"]) == 2
    assert "holds l2 (|x - q|^2" in capsys.readouterr().err
    save_gold(Gold(ids, dists, "cosine"), "h5", Path("cosine.h5"), None, {})
    assert main(["compare", "squares.h5", "cosine.h5"]) == 2
    assert "two different distances" in capsys.readouterr().err


def test_part_of_a_gold_standard_was_never_written(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    with h5py.File("part.h5", "w") as file:
        file["dists"] = dists
        file.create_dataset("knns", (NQ, K), "i4", chunks=(5, K))[:10] = ids[:10] + 1
    hdf5("gold.h5", knns=ids + 1, dists=dists)
    for words in (
        ["eval", "part.h5", "gold.h5"],
        ["eval", "gold.h5", "part.h5"],
        ["compare", "part.h5", "gold.h5"],
        ["convert", "part.h5", "c.ibin"],
    ):
        assert main(words) == 2
        assert "part.h5:knns: 2 of 4 chunks were never written, first of rows 10 to 14" in capsys.readouterr().err
    assert not Path("c.ibin").exists()


def half_written(path: str, ids: np.ndarray, dists: np.ndarray) -> str:
    """Contiguous, as h5py writes by default; the second half of the lines was never written."""
    with h5py.File(path, "w") as file:
        for name, values in (("knns", ids), ("dists", dists)):
            file.create_dataset(name, values.shape, values.dtype)[: len(values) // 2] = values[: len(values) // 2]
    return path


@pytest.mark.usefixtures("holes")
def test_half_of_a_contiguous_gold_standard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.arange(200_000, dtype="i4").reshape(2_000, 100) + 1
    half_written("half.h5", ids, np.sort(RNG.random(ids.shape).astype("f4"), axis=1))
    for words in (["eval", "half.h5", "half.h5"], ["compare", "half.h5", "half.h5"], ["convert", "half.h5", "c.ibin"]):
        assert main(words) == 2
        assert "half.h5:knns: the file has a hole at row 10" in capsys.readouterr().err


def test_similarities_have_a_name_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("cosine", 30)
    cosines = (1 - dists.astype("f8")).astype("f4")
    np.savez("cosines.npz", I=ids, D=cosines)
    assert main(["convert", "cosines.npz", "c.h5", "--distance", "cosine", "--quiet"]) == 0
    assert np.allclose(dists_of(read_gold("c.h5")), dists, atol=1e-6)
    assert (
        main(["convert", "cosines.npz", "ann.hdf5", "--to", "ann-benchmarks", "--distance", "cosine", "--quiet"]) == 0
    )
    with h5py.File("ann.hdf5") as file:
        assert np.allclose(file["distances"][:], dists, atol=1e-6)
    for distance in ("l2", "euclidean", "hamming"):
        assert main(["convert", "cosines.npz", "bad.h5", "--distance", distance]) == 2
        assert "cosines.npz: holds similarities, the largest first, and not" in capsys.readouterr().err
    assert main(["convert", "cosines.npz", "untold.h5", "--quiet"]) == 0
    with h5py.File("untold.h5") as file:
        assert file.attrs["distance"] == "similarity times -1"
    assert main(["convert", "untold.h5", "back.ibin", "--quiet"]) == 0
    assert Path("back.ibin").read_bytes() == Path(ibin("hand.ibin", ids, cosines)).read_bytes()


@pytest.mark.parametrize("k", [1, 4])
def test_inner_products_keep_their_sign(k: int, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("db.npy", ROWS)
    np.save("q.npy", ASKED)
    ids, dists = truth("ip", k)
    for name in ("g.h5", "g.ibin"):
        assert main(["exact", "db.npy", "q.npy", "-k", str(k), "--metric", "ip", "-o", name, "--quiet"]) == 0
    assert Path("g.ibin").read_bytes() == Path(ibin("hand.ibin", ids, -dists)).read_bytes()
    assert main(["compare", "g.h5", "g.ibin"]) == 0
    assert main(["convert", "g.ibin", "back.h5", "--distance", "ip", "--quiet"]) == 0
    assert dists_of(read_gold("back.h5")).tobytes() == dists.tobytes()
    beside = ["--to", "sisap", "--queries-file", "q.npy", "--gold", "g.h5", "--quiet"]
    assert main(["convert", "db.npy", "bench.h5", *beside]) == 0
    assert read_gold("bench.h5:itest").distance == "ip"
    assert main(["convert", "bench.h5:itest", "again.ibin", "--quiet"]) == 0
    assert Path("again.ibin").read_bytes() == Path("g.ibin").read_bytes()


def test_a_metric_of_others_is_no_name_of_a_distance(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    hdf5("theirs.h5", knns=ids + 1, dists=np.sqrt(dists))
    with h5py.File("theirs.h5", "a") as file:
        file.attrs["metric"] = "l2"
    assert main(["convert", "theirs.h5", "ours.h5", "--quiet"]) == 0
    assert read_gold("theirs.h5").distance is read_gold("ours.h5").distance is None


@pytest.mark.parametrize("dtype", ["i4", "i8", "u4", "u8"])
@pytest.mark.parametrize("name", ["g.h5", "ann.hdf5", "g.npy", "g.npz"])
def test_padding_of_every_type(name: str, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    padded = ids.copy()
    padded[:, 6:] = -1
    kept = padded.astype(dtype)
    if name == "g.npy":
        np.save(name, kept)
    elif name == "g.npz":
        np.savez(name, neighbors=kept, distances=np.where(padded < 0, np.inf, dists))
    elif name == "ann.hdf5":
        hdf5(name, neighbors=kept, distances=np.where(padded < 0, np.inf, dists))
    else:
        hdf5(name, knns=np.where(padded < 0, -1, padded + 1).astype(dtype))
    assert np.array_equal(read_gold(name).ids, padded)
    found = figures(capsys, hdf5("exact.h5", knns=ids + 1, dists=dists), name)
    assert (found["by_ids"], found["tie_aware"], found["short"], found["repeated"]) == (1, 1, NQ, 0)
    assert main(["convert", name, "c.ibin", "--quiet"]) == 0
    assert np.array_equal(read_gold("c.ibin").ids, padded)


def test_numbers_of_bits_may_be_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """As FAISS's binary indexes give them."""
    np.savez("faiss.npz", I=np.array([[4, 2], [1, 0]]), D=np.array([[3, 5], [0, 9]], "i4"))
    assert dists_of(read_gold("faiss.npz")).tolist() == [[3, 5], [0, 9]]
    np.savez("from_one.npz", knns=np.array([[4, 0, 2]]))
    np.savez("others.npz", neigh=np.array([[4, 0, 2]]))
    for name, words in (
        ("from_one.npz", "has the id 0 at rank 1"),
        ("others.npz", "holds no ids; they are looked for"),
    ):
        assert main(["eval", name, "faiss.npz", "-k", "1"]) == 2
        assert words in capsys.readouterr().err


def test_row_numbers_beside_other_ids_are_pointed_at(capsys: pytest.CaptureFixture[str]) -> None:
    ids, _ = truth("l2")
    np.save("own.npy", ids + 1_000_000)
    assert main(["eval", hdf5("rows.h5", knns=ids + 1), "own.npy", "-k", "10"]) == 0
    said = capsys.readouterr().out
    assert "recall@10: 0.000000 by ids" in said
    assert "one answer counts rows, and the other may hold ids of the database's own" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["eval", "s3://bucket/g.h5", "g.h5"],
            "s3://bucket/g.h5: results and gold standards are read from this machine",
        ),
        (["exact", "db.npy", "q.npy", "-o", "s3://bucket/g.h5"], "not to a URL; name a file"),
        (["exact", "db.npy", "q.npy", "-o", "g.ibin", "--dists", "float64"], "hold float32 distances, not float64"),
        (["bench", "db.npy", "db.npy"], "is named as the database and as the queries"),
        (["convert", "db.npy", "c.h5", "--distance", "ip"], "--distance: db.npy holds vectors and no distances"),
        (["convert", "g.ivecs", "c.ibin", "--distance", "ip"], "g.ivecs: holds no distances; leave out --distance"),
    ],
)
def test_what_cannot_be_honoured_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("db.npy", ROWS)
    np.save("q.npy", ASKED)
    Path("g.ivecs").write_bytes(struct.pack("<iii", 2, 3, 4))
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_names_of_distances_are_those_that_convert_takes() -> None:
    assert tuple(distances.DISTANCES) == convert.DISTANCES


@pytest.mark.parametrize("kind", ["ibin", "npz", "h5"])
def test_one_similarity_a_query_tells_no_direction(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("ip", 5)
    wrong, far = ids[:, 3:4].copy(), -dists[:, 3:4]
    wrong[0], far[0] = ids[0, 0], -dists[0, 0]
    names = []
    for name, of, products in (("gold", ids[:, :1], -dists[:, :1]), ("wrong", wrong, far)):
        names.append(ibin(f"{name}.ibin", of, products) if kind != "npz" else f"{name}.npz")
        if kind == "npz":
            np.savez(names[-1], I=of, D=products)
        if kind == "h5":
            assert main(["convert", names[-1], f"{name}.h5", "--quiet"]) == 0
            names[-1] = f"{name}.h5"
    assert figures(capsys, names[1], names[0], k=1)["by_distances"] is None
    if kind == "ibin":
        assert main(["compare", names[0], ibin("wide.ibin", ids, -dists)]) == 0
        assert main(["convert", names[0], "bad.h5", "--distance", "cosine"]) == 2
        assert "that is from 0 to 2" in capsys.readouterr().err


def test_pairs_at_0_and_1_prove_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Queries are rows here: each finds itself at 0, which is the root of itself."""
    ids, dists = oracle.knn(30 * ROWS, 30 * ROWS[:NQ], K, "l2", "float32")
    save_gold(Gold(ids, dists, "l2"), "h5", Path("gold.h5"), None, {})
    found = np.column_stack(
        [ids[:, :1], [np.setdiff1d(line, true)[: K - 3] for line, true in zip(RANDOM, ids, strict=True)]]
    )
    far = np.sqrt(((30 * (ROWS[found] - ROWS[:NQ, None])) ** 2).sum(axis=2))
    np.savez("roots.npz", I=found, D=np.sort(far, axis=1))
    assert figures(capsys, "roots.npz", "gold.h5", k=K - 2)["by_distances"] is None


def test_unsorted_distances_do_not_go_to_ann_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    ids, dists = truth("l2")
    for bad in (dists[:, ::-1], np.where(ids == ids[3, 2], np.nan, dists)):
        save_gold(Gold(ids, bad, "l2"), "h5", Path("bad.h5"), None, {})
        assert main(["convert", "bad.h5", "ann.hdf5", "--to", "ann-benchmarks"]) == 2
        assert "(counted from 0) do not ascend, or are not numbers" in capsys.readouterr().err
