"""The field's formats, from bytes made by hand."""

import pickle
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuknn.errors import InputError
from gpuknn.gold import formats as gold_formats
from gpuknn.jobs.rewrite.formats import NAMES
from gpuknn.vectors import Vectors, content_fingerprint, open_vectors
from gpuknn.vectors import formats as vector_formats
from gpuknn.vectors.raw import RawVectors
from tests import oracle

RAW_TYPES = {
    ".fbin": "float32",
    ".f16bin": "float16",
    ".u8bin": "uint8",
    ".i8bin": "int8",
    ".fvecs": "float32",
    ".bvecs": "uint8",
}


def rows_of(dtype: str, n: int = 700, d: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (n, d)).astype(dtype)


def write(path: Path, rows: np.ndarray) -> Path:
    """As the formats are described, not as anything here reads them."""
    n, d = rows.shape
    if path.suffix.endswith("vecs"):
        path.write_bytes(b"".join(struct.pack("<i", d) + row.tobytes() for row in rows))
    else:
        path.write_bytes(struct.pack("<II", n, d) + rows.tobytes())
    return path


def assert_holds(vectors: Vectors, rows: np.ndarray) -> None:
    n, d = rows.shape
    vectors = pickle.loads(pickle.dumps(vectors))
    assert (vectors.shape, vectors.dtype) == (rows.shape, rows.dtype)
    for first, last in ((0, n), (0, 1), (n - 1, n), (n // 3, n // 2)):
        assert np.array_equal(vectors[first:last], rows[first:last])
    out = np.empty((10, d), rows.dtype)
    vectors.read(5, out)
    assert np.array_equal(out, rows[5:15])


@pytest.mark.parametrize("suffix", [*RAW_TYPES, ".FBIN"])
def test_raw_formats(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuknn.vectors.vecs.PIECE_BYTES", 100)
    rows = rows_of(RAW_TYPES[suffix.lower()])
    vectors = open_vectors(write(tmp_path / f"a{suffix}", rows))
    assert_holds(vectors, rows)
    assert isinstance(vectors, RawVectors) == suffix.lower().endswith("bin")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.fbin", b"", "has no header"),
        ("a.fbin", struct.pack("<I", 5), "has no header"),
        ("a.fbin", struct.pack("<II", 2**31, 100), "858,993,459,208 bytes are promised, 8 are there"),
        ("a.u8bin", struct.pack("<II", 2**32 - 1, 2**32 - 1), "more than can be read; is it damaged?"),
        ("a.fbin", struct.pack("<II", 2, 3) + bytes(23), "the file is truncated"),
        ("a.fbin", struct.pack("<II", 2, 3) + bytes(25), r"1 bytes follow the 2 x 3 float32 .* suffix right"),
        ("a.i8bin", struct.pack("<II", 2, 0), "is empty"),
        ("a.f16bin", struct.pack("<II", 0, 7), "is empty"),
        ("a.fvecs", b"", "is empty"),
        ("a.fvecs", b"\1\0", "no whole number of rows of 1 float32"),
        ("a.fvecs", struct.pack("<i", 0), "row 0 says it has 0 components"),
        ("a.bvecs", struct.pack("<i", -3) + bytes(20), "row 0 says it has -3 components"),
        ("a.fvecs", struct.pack("<i", 2**31 - 1) + bytes(20), "no whole number of rows of 2147483647 float32"),
        ("a.fvecs", struct.pack("<iff", 2, 1, 1) + struct.pack("<i", 2), "no whole number of rows"),
        ("a.ivecs", struct.pack("<iii", 2, 1, 1), "hold ids"),
        ("a.ibin", struct.pack("<IIii", 1, 2, 1, 1), "hold ids"),
    ],
)
def test_what_is_wrong_is_said_at_once(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_vectors(tmp_path / name)


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.fvecs", rows_of("float32", 100, 5)).read_bytes())
    content[24 * 77 : 24 * 77 + 4] = struct.pack("<i", 6)
    (tmp_path / "a.fvecs").write_bytes(content)
    vectors = open_vectors(tmp_path / "a.fvecs")
    assert vectors[:77].shape == (77, 5)
    with pytest.raises(InputError, match=r"row 77 .* says it has 6 components"):
        vectors[50:]


def test_rows_that_are_too_long(tmp_path: Path) -> None:
    with open(tmp_path / "a.fvecs", "wb") as file:
        file.write(struct.pack("<i", 2**29))
        file.truncate(4 + 4 * 2**29)  # takes no room on the disk
    with pytest.raises(InputError, match="row 0 says it has 536,870,912 components, too many"):
        open_vectors(tmp_path / "a.fvecs")


def test_rows_that_only_add_up_to_equal_length(tmp_path: Path) -> None:
    """Two rows of 1 and 3 components have the size of two rows of 2."""
    (tmp_path / "a.fvecs").write_bytes(struct.pack("<if", 1, 1) + struct.pack("<ifff", 3, 1, 2, 3))
    with pytest.raises(InputError, match=r"row 1 .* says it has"):
        open_vectors(tmp_path / "a.fvecs")[:]


@pytest.mark.parametrize("suffix", [".fbin", ".fvecs"])
def test_files_that_shrink_and_keys(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", rows_of("float32"))
    with pytest.raises(InputError, match="one array without a name; leave out the key 'emb'"):
        open_vectors(path, key="emb")
    vectors = open_vectors(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"ends at row \d+ of 700; the file is truncated"):
        vectors[:]


@given(
    suffix=st.sampled_from(list(RAW_TYPES)),
    head=st.lists(st.integers(-2, 40) | st.integers(-(2**31), 2**31 - 1), max_size=3),
    tail=st.binary(max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_vectors_or_refused(
    suffix: str, head: list[int], tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(b"".join(struct.pack("<i", number) for number in head) + tail)
    try:
        vectors = open_vectors(path)
    except InputError:
        return
    assert 0 < vectors.nbytes <= path.stat().st_size
    try:
        rows = vectors[:]
    except InputError:
        assert suffix.endswith("vecs")  # in these, rows have headers, too
        return
    assert write(path, rows).read_bytes() == path.read_bytes()


@pytest.mark.skipif(not oracle.SHARED.exists(), reason="needs the shared data")
def test_files_of_others() -> None:
    folder = oracle.SHARED / "data/bigann"
    learn, query = open_vectors(folder / "siftsmall_learn_256pts.fbin"), open_vectors(folder / "siftsmall_query.fvecs")
    assert (learn.shape, query.shape) == ((256, 128), (100, 128))
    for vectors in (learn, query):
        rows = vectors[:]  # of SIFT: whole numbers from 0 to 255 or so
        assert np.array_equal(rows, np.round(rows))
        assert rows.min() == 0
        assert 100 < rows.max() < 300


def parquet(path: Path, column: object, name: str = "emb", **options: object) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    ids = pa.array(np.arange(len(column)))  # type: ignore[arg-type]
    pq.write_table(pa.table({"id": ids, name: column}), path, **options)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "uint64"])
@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
def test_parquet(kind: str, dtype: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    rows = rows_of(dtype)
    if kind == "fixed":
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 5)
    else:
        of, offsets = (pa.ListArray, "int32") if kind == "list" else (pa.LargeListArray, "int64")
        column = of.from_arrays(np.arange(0, rows.size + 1, 5, dtype=offsets), pa.array(rows.reshape(-1)))
    vectors = open_vectors(parquet(tmp_path / "a.parquet", column, row_group_size=300))
    assert vectors.key == "emb"
    assert_holds(vectors, rows)
    assert_holds(open_vectors(parquet(tmp_path / "named_otherwise", column), key="emb"), rows)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[1.0, 2.0], [3.0]], "row 1 .* has 1 components, others have 2"),
        ([[1.0, 2.0], None], "row 1 .* has 0 components"),
        ([[1.0, 2.0], [3.0, None]], "row 1 .* null"),
        ([[1.0, 2.0], [3.0, 4.0, 5.0]], "row 1 .* has 3 components"),
        ([None, [1.0, 2.0]], "row 0 .* is null"),
        ([[], [1.0, 2.0]], "row 0 .* has no components"),
        ([[], []], r"no array of vectors, but id \(2,\) int64, emb \(2, 0\) object"),
        ([None, None], "no array of vectors"),
        ([["a"], ["b"]], "no array of vectors"),
        ([1.0, 2.0], "no array of vectors"),
    ],
)
def test_parquet_columns_that_are_no_vectors(lists: list[object], words: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=words):
        open_vectors(parquet(tmp_path / "a.parquet", pa.array(lists)))[:]


def test_damaged_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = parquet(tmp_path / "a.parquet", pa.array([[1.0, 2.0]] * 1000), compression=None, use_dictionary=False)
    with pytest.raises(InputError, match="has no column 'nope'; it holds id, emb"):
        open_vectors(path, key="nope")
    vectors, whole = open_vectors(path), path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(InputError, match="damaged Parquet file"):
        open_vectors(path)
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(InputError, match="rows 0 to 1000 cannot be read"):
        vectors[:]


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1....")
    with pytest.raises(InputError, match="install it with: pip install 'pyarrow>="):
        open_vectors(tmp_path / "a.parquet")


def test_files_of_ann_benchmarks(tmp_path: Path) -> None:
    rows = rows_of("float32")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"], file["test"] = rows, rows[:9]
        file["neighbors"], file["distances"] = rows[:9].astype("i4"), rows[:9]
    with pytest.raises(InputError, match=r"several .*; name one of them: .*a.hdf5:test, .*a.hdf5:train$"):
        open_vectors(tmp_path / "a.hdf5")
    assert_holds(open_vectors(tmp_path / "a.hdf5", key="train"), rows)


def test_files_of_sisap(tmp_path: Path) -> None:
    rows = rows_of("float16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train"] = rows
        for part in ("itest", "otest"):
            file[f"{part}/queries"], file[f"{part}/knns"], file[f"{part}/dists"] = rows[:9], rows[:9, :0], rows[:9]
        file["allknn/knns"], file["allknn/dists"] = rows.astype("i4"), rows.astype("f4")
    assert open_vectors(tmp_path / "a.h5").key == "train"
    assert_holds(open_vectors(tmp_path / "a.h5", key="train"), rows)
    assert np.array_equal(open_vectors(tmp_path / "a.h5", key="itest/queries")[:], rows[:9])


def test_gold_files_are_no_databases(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["knns"], file["dists"] = rows_of("int32"), rows_of("float32")
    with pytest.raises(InputError, match="holds no array of vectors, but dists"):
        open_vectors(tmp_path / "a.h5")


@pytest.mark.parametrize("key", [None, "train"])
def test_sparse_rows_are_refused(key: str | None, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("train")
        group["data"], group["indices"], group["indptr"] = np.ones(5, "f4"), np.arange(5), np.array([0, 2, 5])
        group.attrs["shape"] = (2, 30000)
        file["itest/dists"] = rows_of("float32")
    with pytest.raises(InputError, match=r"sparse rows \(CSR\) in /?train; only dense vectors are searched"):
        open_vectors(tmp_path / "a.h5", key=key)


def test_the_same_content_has_the_same_fingerprint(tmp_path: Path) -> None:
    rows = rows_of("uint8")
    np.save(tmp_path / "a.npy", rows)
    names = [write(tmp_path / name, rows) for name in ("a.u8bin", "a.bvecs")]
    assert len({content_fingerprint(open_vectors(name)) for name in [tmp_path / "a.npy", *names]}) == 1


def test_convert_offers_every_format_that_is_written() -> None:
    assert set(NAMES) == {*vector_formats.SUFFIXES.values(), *gold_formats.WRITERS}
