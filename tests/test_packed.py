"""Under hamming uint8 and int8 hold eight bits in a byte: the answer of the plain rule, from wherever they are."""

import os
import pickle
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.gold import read_gold
from gpuknn.jobs.exact.job import ask
from gpuknn.vectors import as_vectors, content_fingerprint, file_state, open_vectors
from gpuknn.vectors.bits import PackedBytes, as_sketches

N, NQ, K = 300, 7, 20
WIDTHS = [1, 7, 8, 9, 16, 128]
RAW = {"uint8": "rows.u8bin", "int8": "rows.i8bin"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def packed(width: int, n: int = N, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Some rows are equal, so that there are ties."""
    rows = np.random.default_rng(seed).integers(0, 256, (n, width), np.uint8)
    rows[n // 2 :: 3] = rows[0]
    return rows.view(dtype)


def words_of(rows: np.ndarray) -> np.ndarray:
    """The same bits as words of uint64, the last of which is filled up with zeros."""
    return np.pad(rows.view(np.uint8), ((0, 0), (0, -rows.shape[1] % 8))).view("<u8").astype(np.uint64)


def differing(rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(nq, n) float32: differing bits, counted one by one."""
    a, b = (np.unpackbits(x.view(np.uint8), axis=1) for x in (asked, rows))
    return (a[:, None] != b[None]).sum(axis=2).astype(np.float32)


def nearest(rows: np.ndarray, asked: np.ndarray, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    counted = differing(rows, asked)
    ids = np.argsort(counted, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(counted, ids, axis=1)


def answer(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids from 0 and distances of a gold standard."""
    gold = read_gold(name)
    assert gold.dists is not None
    return gold.ids, gold.dists


def assert_nearest(found: Iterable[np.ndarray], rows: np.ndarray, asked: np.ndarray) -> None:
    ids, dists = found
    expected = nearest(rows, asked)
    assert np.array_equal(ids, expected[0])
    assert dists.tobytes() == expected[1].tobytes()


def write_h5(rows: np.ndarray, **options: object) -> str:
    with h5py.File("rows.h5", "w") as file:
        file.create_dataset("emb", data=rows, **options)
    return "rows.h5"


def write_zarr(rows: np.ndarray, **options: Any) -> str:
    zarr.create_array(
        "rows.zarr", data=rows, chunks=(41, rows.shape[1]), config={"write_empty_chunks": True}, **options
    )
    return "rows.zarr"


def write_parquet(rows: np.ndarray, ids: np.ndarray | None = None) -> str:
    lists = pa.array(list(rows), pa.list_(pa.from_numpy_dtype(rows.dtype)))
    pq.write_table(pa.table({"emb": lists} | ({} if ids is None else {"id": ids})), "rows.parquet", row_group_size=77)
    return "rows.parquet"


def write_raw(rows: np.ndarray) -> str:
    Path(RAW[rows.dtype.name]).write_bytes(struct.pack("<II", *rows.shape) + rows.tobytes())
    return RAW[rows.dtype.name]


def write_bvecs(rows: np.ndarray) -> str:
    Path("rows.bvecs").write_bytes(b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in rows))
    return "rows.bvecs"


def write_npz(rows: np.ndarray) -> str:
    np.savez_compressed("rows.npz", emb=rows)
    return "rows.npz"


def write_npy(rows: np.ndarray, name: str = "rows.npy") -> str:
    np.save(name, rows)
    return name


FILES: dict[str, Callable[[np.ndarray], str]] = {
    "npy": write_npy,
    "npz": write_npz,
    "h5": write_h5,
    "h5 gzip": lambda rows: write_h5(rows, chunks=(41, 1), compression="gzip"),
    "zarr": write_zarr,
    "zarr raw": lambda rows: write_zarr(rows, compressors=None),
    "parquet": write_parquet,
    "raw": write_raw,
    "bvecs": write_bvecs,
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_arrays(dtype: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuknn.vectors.bits.READ_BYTES", 1000)
    rows, asked = packed(width, dtype=dtype), packed(width, NQ, dtype, seed=1)
    found = gpuknn.exact_knn(rows, asked, k=K, metric="hamming")
    assert_nearest(found, rows, asked)
    assert found == gpuknn.exact_knn(words_of(rows), words_of(asked), k=K, metric="hamming")
    assert found.bits == 8 * width
    assert gpuknn.exact_knn(rows, asked[2], k=K, metric="hamming").ids.tolist() == found.ids[2:3].tolist()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, dtype: str, width: int) -> None:
    if (kind, dtype) == ("bvecs", "int8"):
        pytest.skip("holds uint8 alone")
    rows, asked = packed(width, dtype=dtype), packed(width, NQ, dtype, seed=1)
    name = FILES[kind](rows)
    assert_nearest(gpuknn.exact_knn(name, asked, k=K, metric="hamming"), rows, asked)
    vectors = pickle.loads(pickle.dumps(as_sketches(open_vectors(name))))
    assert (vectors.shape, vectors.dtype) == ((N, -(-width // 8)), np.uint64)
    assert np.array_equal(vectors[13:250], words_of(rows)[13:250])
    assert content_fingerprint(vectors) == content_fingerprint(as_vectors(words_of(rows), "words"))


@pytest.mark.parametrize("kind", FILES)
def test_the_command(kind: str) -> None:
    rows, asked = packed(9), packed(9, NQ, seed=1)
    names = [FILES[kind](rows), write_npy(asked, "q.npy")]
    search = ["exact", *names, "--metric", "hamming", "-k", str(K), "-o", "gold.h5", "--shard-rows", "70", "--quiet"]
    assert main(search) == 0
    assert_nearest(answer("gold.h5"), rows, asked)
    with h5py.File("gold.h5") as file:
        assert file.attrs["bits"] == 72


@pytest.mark.parametrize("workers", [1, 2])
def test_many_files(workers: int) -> None:
    rows, asked = packed(9), packed(9, NQ, seed=1)
    Path("parts").mkdir()
    for i, part in enumerate(np.split(rows, [40, 41, 200])):
        write_npy(part, f"parts/{i}.npy")
    write_npy(asked, "q.npy")
    words = ["--workers", str(workers), "--shard-rows", "70", "--quiet"]
    assert main(["exact", "parts", "q.npy", "--metric", "hamming", "-k", str(K), "-o", "gold.h5", *words]) == 0
    assert_nearest(answer("gold.h5"), rows, asked)
    assert_nearest(gpuknn.exact_knn(["parts"], asked, k=K, metric="hamming"), rows, asked)


def test_many_files_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = packed(9)
    for i, part in enumerate(np.split(rows, [40, 41, 200])):
        write_npy(part, f"part{i}.npy")
    plain = open_vectors("part*.npy")
    sketches = ask("part*.npy", None, K, "hamming").database
    assert [len(part) for part in sketches.files] == [40, 1, 159, 100]
    assert sketches.file_edges == plain.file_edges == (0, 40, 41, 200, 300)
    assert sketches.locate(45) == ("part2.npy", 4)
    for told in ("where", "name", "asked", "sources", "files_told"):
        assert getattr(sketches, told) == getattr(plain, told)
    state = file_state(sketches)
    assert state == file_state(plain)
    elsewhere = pickle.loads(pickle.dumps(sketches.absolute()))
    Path("other").mkdir()
    monkeypatch.chdir("other")
    assert np.array_equal(elsewhere[:], words_of(rows))
    os.utime("../part2.npy", ns=(0, 0))
    assert file_state(elsewhere) != state


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_self_joins(dtype: str, many: bool) -> None:
    rows = packed(7, dtype=dtype)
    for i, part in enumerate(np.split(rows, [100])):
        write_npy(part, f"part{i}.npy")
    database = "part*.npy" if many else write_npy(rows)
    search = ["exact", database, "--metric", "hamming", "--shard-rows", "70", "--quiet"]
    ids, dists = nearest(rows, rows, N)
    others = ids != np.arange(N)[:, None]
    assert main([*search, "--self", "-k", str(K), "-o", "gold.h5"]) == 0
    left_out = answer("gold.h5")
    assert np.array_equal(left_out[0], ids[others].reshape(N, N - 1)[:, :K])
    assert np.array_equal(left_out[1], dists[others].reshape(N, N - 1)[:, :K])
    assert main([*search, "--self-first", "-k", str(K + 1), "-o", "first.h5"]) == 0
    first = answer("first.h5")
    assert np.array_equal(first[0], np.column_stack([np.arange(N), left_out[0]]))
    assert np.array_equal(first[1], np.column_stack([np.zeros(N), left_out[1]]))
    for self_first, gold in ((False, left_out), (True, first)):
        found = gpuknn.exact_knn(database, k=K + self_first, metric="hamming", self_first=self_first)
        assert np.array_equal(found.ids, gold[0])
        assert np.array_equal(found.dists, gold[1])


def test_ids_of_a_file_are_kept() -> None:
    rows = packed(9)
    name = write_parquet(rows, ids=np.arange(1000, 1000 + N)[::-1])
    found = gpuknn.exact_knn(name, rows[:3], k=K, metric="hamming")
    assert found.own_ids is not None
    assert np.array_equal(found.own_ids, 1000 + N - 1 - nearest(rows, rows[:3])[0])


def test_memory_is_counted_in_words_and_in_what_the_source_holds() -> None:
    opened = open_vectors(write_h5(packed(9), chunks=(N, 9), compression="gzip"))
    sketches = as_sketches(opened)
    assert sketches.nbytes == N * 16
    assert sketches.held_bytes(3) == opened.held_bytes(3) > 0


def test_whole_words_are_read_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedBytes, "octets", lambda *_: pytest.fail("copied"))
    for dtype in ("uint8", "int8"):
        rows = packed(16, dtype=dtype)
        assert np.array_equal(as_sketches(open_vectors(write_npy(rows)))[:], words_of(rows))


def test_a_file_that_has_become_too_short_is_named() -> None:
    for i in range(2):
        write_npy(packed(9), f"part{i}.npy")
    sketches = as_sketches(open_vectors("part*.npy"))
    os.truncate("part1.npy", 1000)
    with pytest.raises(InputError, match=r"^part1\.npy: ends at row 96 of 300; the file is truncated$"):
        sketches[:]


def test_numbers_stay_numbers() -> None:
    rows = packed(9)
    found = gpuknn.exact_knn(rows, rows[:5], k=K, metric="l2")
    assert found == gpuknn.exact_knn(rows.astype(np.float32), rows[:5].astype(np.float32), k=K, metric="l2")


BYTES, BOOLEANS = packed(16), np.unpackbits(packed(16), axis=1).view(bool)
ORDER = "nobody can tell in which order the bits were packed: keep both alike"
SIGN = "int8 may be the same bytes, or 128 less as sentence-transformers' binary is: make both one type"
REFUSED = {
    "booleans": (BYTES, BOOLEANS, f"q.npy: holds bool, and db.npy uint8; {ORDER}"),
    "booleans, int8": (BYTES.view("i1"), BOOLEANS, f"q.npy: holds bool, and db.npy int8; {ORDER}"),
    "of booleans": (BOOLEANS, BYTES, f"q.npy: holds uint8, and db.npy bool; {ORDER}"),
    "int8": (BYTES, BYTES.view("i1"), f"q.npy: holds int8, and db.npy uint8; {SIGN}"),
    "uint8": (BYTES.view("i1"), BYTES, f"q.npy: holds uint8, and db.npy int8; {SIGN}"),
    "int8 and words": (words_of(BYTES), BYTES.view("i1"), f"q.npy: holds int8, and db.npy uint64; {ORDER}"),
    "words": (BYTES, words_of(BYTES), f"q.npy: holds uint64, and db.npy uint8; {ORDER}"),
    "bytes": (BYTES, BYTES[:, :15], "q.npy: queries have 120 bits, the rows of db.npy have 128"),
    "more": (BYTES[:, :8], BYTES, "q.npy: queries have 128 bits, the rows of db.npy have 64"),
    "numbers": (
        BYTES,
        BYTES.astype("f4"),
        "q.npy: hamming is not defined on float32 rows; use --metric cosine or --metric ip or --metric l2; it takes "
        "booleans, bits packed in bytes (uint8 or int8), or sketches of uint64 words",
    ),
}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_could_mean_two_things_is_refused(kind: str, many: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows, asked, said = REFUSED[kind]
    write_npy(asked, "q.npy")
    Path("list.txt").write_text(write_npy(rows, "db.npy"))
    database = "list.txt" if many else "db.npy"
    assert main(["exact", database, "q.npy", "--metric", "hamming", "-k", "3", "-o", "gold.h5"]) == 2
    assert capsys.readouterr().err == f"gpuknn: error: {said.replace('db.npy', database)}\n"
    assert not Path("gold.h5").exists()
    with pytest.raises(InputError, match=r"^queries: "):
        gpuknn.exact_knn(rows, asked, k=3, metric="hamming")


def test_what_is_advised_for_int8_works() -> None:
    bits = packed(16)
    viewed, less = bits.view(np.int8), (bits.astype(np.int16) - 128).astype(np.int8)  # as sentence-transformers does
    for kept in (viewed, less):
        with pytest.raises(InputError, match=r"by rows\.view\(np\.uint8\), or else by rows\.view\(np\.uint8\) \^ 128"):
            gpuknn.exact_knn(bits, kept, k=3, metric="hamming")
    assert np.array_equal(viewed.view(np.uint8), bits)
    assert np.array_equal(less.view(np.uint8) ^ 128, bits)
    assert gpuknn.exact_knn(less, k=3, metric="hamming") == gpuknn.exact_knn(bits, k=3, metric="hamming")


def test_bench_reads_them_as_the_search_does(capsys: pytest.CaptureFixture[str]) -> None:
    names = [write_npy(packed(9), "db.npy"), write_npy(packed(9, NQ), "q.npy")]
    words = ["--device", "cpu", "--repeat", "1", "--peers", "", "-k", "3", "--metric"]
    assert main(["bench", *names, *words, "hamming"]) == 0
    assert "product s" not in capsys.readouterr().out
    write_npy(packed(10), "db.npy")
    assert main(["bench", *names, *words, "hamming"]) == 2
    assert "queries have 72 bits, the rows of db.npy have 80" in capsys.readouterr().err


def test_ann_benchmarks_is_given_no_bytes_for_booleans(capsys: pytest.CaptureFixture[str]) -> None:
    names = [write_npy(packed(9), "db.npy"), write_npy(packed(9, NQ), "q.npy")]
    assert main(["exact", *names, "--metric", "hamming", "-k", "3", "-o", "gold.h5", "--quiet"]) == 0
    words = ["--to", "ann-benchmarks", "--queries-file", "q.npy", "--gold", "gold.h5", "--quiet"]
    assert main(["convert", "db.npy", "set.hdf5", *words]) == 2
    assert "gold.h5: is about sketches, which the format keeps as booleans, and the rows are" in capsys.readouterr().err
    for name in names:
        write_npy(np.unpackbits(np.load(name), axis=1).astype(bool), name)
    assert main(["convert", "db.npy", "set.hdf5", *words]) == 0
