"""Vectors from any format to any other and back: the same bits."""

import json
import shutil
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from gpuknn.cli.main import main
from gpuknn.vectors import open_vectors
from gpuknn.vectors import target as target_module
from gpuknn.vectors.derived import Derived
from gpuknn.vectors.zarr import zarr_target

ROWS, D = 1_003, 24
SHARED = Path(__file__).parents[2] / "shared"
needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow")
ANY = ["a.h5", "a.zarr", "a.npy", pytest.param("a.parquet", marks=needs_pyarrow)]
ONE_TYPE = {
    "a.fbin": "float32",
    "a.f16bin": "float16",
    "a.u8bin": "uint8",
    "a.i8bin": "int8",
    "a.fvecs": "float32",
    "a.bvecs": "uint8",
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So small that small data go through every path."""
    monkeypatch.setattr(Derived, "block_bytes", 2_000)
    monkeypatch.setattr(target_module, "PIECE_BYTES", 9_000)
    monkeypatch.chdir(tmp_path)


def rows(dtype: str, n: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(7)
    if dtype.startswith("float"):
        values = rng.standard_normal((n, D)).astype(dtype)
        values[5, :4] = np.inf, -np.inf, np.nan, -0.0
        return values
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (n, D), dtype, endpoint=True)


def source(values: np.ndarray) -> str:
    np.save("source.npy", values)
    return "source.npy"


def said(words: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def same(a: Any, b: np.ndarray) -> bool:
    a = np.asarray(a)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "uint64"])
def test_there_and_back(name: str, dtype: str) -> None:
    values = rows(dtype)
    assert main(["convert", source(values), name, "--quiet"]) == 0
    assert same(open_vectors(name)[:], values)
    assert main(["convert", name, "back.npy", "--quiet"]) == 0
    assert Path("back.npy").read_bytes() == Path("source.npy").read_bytes()
    assert sorted(p.name for p in Path().iterdir()) == sorted([name, "back.npy", "source.npy"])


@pytest.mark.parametrize(("name", "dtype"), ONE_TYPE.items())
def test_formats_of_one_type(name: str, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = rows(dtype)
    assert main(["convert", source(values), name]) == 0
    assert "nothing was rounded" in capsys.readouterr().out
    assert same(open_vectors(name)[:], values)
    assert main(["convert", name, "back.zarr", "--quiet"]) == 0
    assert same(zarr.open_array("back.zarr", mode="r")[:], values)
    code, line = said(["compare", name, "other.npy"], capsys)
    assert (code, "there is no such file" in line) == (2, True)
    other = "float32" if dtype != "float32" else "float16"
    code, line = said(["convert", name, name, "--force", "--dtype", other], capsys)
    assert code == 2
    assert f"holds {dtype} only" in line


CHUNKS, SHARDS = ["--chunk-rows", 64], ["--chunk-rows", 50, "--shard-rows", 150]


@pytest.mark.parametrize(
    ("compression", "version", "cut"),
    [
        *(("none", 2, CHUNKS), ("zstd", 2, []), ("blosc", 2, SHARDS)),
        *(("none", 3, []), ("none", 3, CHUNKS), ("none", 3, SHARDS), ("zstd", 3, SHARDS), ("blosc", 3, CHUNKS)),
    ],
)
def test_zarr(compression: str, version: int, cut: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    values = rows("float16")
    values[100:700] = 0  # chunks of zeros are written, too
    words = [
        "convert",
        source(values),
        "a.zarr",
        "--compression",
        compression,
        "--zarr-format",
        version,
        *cut,
        "--json",
    ]
    code, out = said(words, capsys)
    assert code == 0
    array = zarr.open_array("a.zarr", mode="r")
    assert array.metadata.zarr_format == version
    assert same(array[:], values)
    assert array.nchunks_initialized >= array.nchunks
    assert array.chunks[1] == D
    assert Path("a.zarr/c").exists() == (version == 3)
    assert dict(array.attrs)["gpuknn"]["source"] == "source.npy"  # type: ignore[index,call-overload]
    if cut:
        assert json.loads(out)["pieces"] == -(-ROWS // (array.shards or (150, 0) if len(cut) > 2 else array.chunks)[0])
    assert main(["convert", "a.zarr", "b.npy", "--quiet"]) == 0
    assert Path("b.npy").read_bytes() == Path("source.npy").read_bytes()


@pytest.mark.parametrize("cut", [(64, 64), (50, 150), (1003, 1003), (1, 7), (100, 2000)])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_raw_shards_are_what_the_library_writes(cut: tuple[int, int], dtype: str) -> None:
    values = rows(dtype)
    words = ["convert", source(values), "a.zarr", "--chunk-rows", cut[0], "--shard-rows", cut[1], "--quiet"]
    assert main([str(word) for word in words]) == 0
    options = zarr_target("b.zarr", values.shape, values.dtype, *cut)._described()
    zarr.create_array("b.zarr", **options)[:] = values
    files = [sorted(p.relative_to(root) for p in Path(root).rglob("*")) for root in ("a.zarr", "b.zarr")]
    assert files[0] == files[1]
    for file in files[0]:
        if file.parts[0] == "c" and len(file.parts) == 3:
            assert Path("a.zarr", file).read_bytes() == Path("b.zarr", file).read_bytes()


def test_chunks_and_shards_of_large_and_small_data() -> None:
    def cut(n: int, d: int, dtype: str, **options: object) -> tuple[int, int]:
        made = zarr_target("x", (n, d), np.dtype(dtype), **options)  # type: ignore[arg-type]
        return made.chunk_rows, made.shard_rows

    assert cut(102_144_212, 768, "float16") == (16_384, 1_048_576)
    assert cut(102_144_212, 768, "float16", compression="zstd") == (16_384, 131_072)
    assert cut(1_000_000_000, 128, "uint8") == (131_072, 8_388_608)
    assert cut(10_000, 384, "float16") == (10_000, 10_000)
    assert cut(1_400_000, 768, "float16") == (16_384, 98_304)
    assert cut(50, 10**8, "float64") == (1, 4)


def test_hdf5_is_a_bundle() -> None:
    values = rows("float16")
    assert main(["convert", source(values), "a.h5", "--quiet"]) == 0
    head = Path("a.h5").read_bytes()[:520]
    assert head.startswith(b"HDF5-based Julia Data Format, version ")
    assert head[512:] == b"\x89HDF\r\n\x1a\n"
    with h5py.File("a.h5") as file:
        assert file.userblock_size == 512
        assert list(file) == ["emb"]
        assert file["emb"].chunks is None
        assert same(file["emb"][:], values)
        notes = json.loads(file.attrs["gpuknn"])
    assert notes["source_shape"] == [ROWS, D]
    assert len(notes["crc32c"]) == -(-ROWS // notes["piece_rows"]) > 3
    assert main(["convert", "source.npy", "b.h5", "--dst-key", "deep/inside", "--quiet"]) == 0
    with h5py.File("b.h5") as file:
        assert same(file["deep/inside"][:], values)
    assert main(["convert", source(rows("uint64")), "c.h5", "--quiet"]) == 0
    with h5py.File("c.h5") as file:
        assert list(file) == ["hamming"]


def test_what_others_read_by_hand() -> None:
    values = rows("float32")
    for name in ("a.fbin", "a.fvecs", "a.npy"):
        assert main(["convert", source(values), name, "--quiet"]) == 0
    content = Path("a.fbin").read_bytes()
    assert struct.unpack("<II", content[:8]) == (ROWS, D)
    assert content[8:] == values.tobytes()
    vecs = np.fromfile("a.fvecs", "<i4").reshape(ROWS, D + 1)  # as FAISS's fvecs_read
    assert (vecs[:, 0] == D).all()
    assert vecs[:, 1:].tobytes() == values.tobytes()
    assert same(np.load("a.npy"), values)
    if find_spec("pyarrow"):
        import pyarrow.parquet

        assert main(["convert", "source.npy", "a.parquet", "--compression", "zstd", "--quiet"]) == 0
        table = pyarrow.parquet.read_table("a.parquet")
        assert table["id"].to_pylist() == list(range(ROWS))
        assert table["emb"].to_pylist()[7] == values[7].tolist()


def test_ann_benchmarks_and_sisap() -> None:
    values, asked = rows("float32", 300)[10:], rows("float32", 20)[10:]
    source(values)
    np.save("queries.npy", asked)
    search = ["exact", "source.npy", "queries.npy", "--metric", "l2", "-k", "5", "-o", "gold.h5", "--quiet"]
    assert main(search) == 0
    with h5py.File("gold.h5") as file:
        knns, dists = file["knns"][:], file["dists"][:]
    beside = ["--queries-file", "queries.npy", "--gold", "gold.h5", "--quiet"]
    assert main(["convert", "source.npy", "ann.hdf5", "--to", "ann-benchmarks", *beside]) == 0
    with h5py.File("ann.hdf5") as file:
        assert set(file) == {"train", "test", "neighbors", "distances"}
        assert same(file["train"][:], values)
        assert same(file["test"][:], asked)
        assert np.array_equal(file["neighbors"][:] + 1, knns)
        assert same(file["distances"][:], np.sqrt(dists.astype(np.float64)).astype(np.float32))
        assert file.attrs["distance"] == "euclidean"
        assert file.attrs["dimension"] == D
    assert main(["convert", "source.npy", "sisap.h5", "--to", "sisap", *beside]) == 0
    with h5py.File("sisap.h5") as file:
        assert same(file["train"][:], values)
        assert same(file["itest/queries"][:], asked)
        assert np.array_equal(file["itest/knns"][:], knns)
    for name, key in (("ann.hdf5", "train"), ("sisap.h5", "train")):
        assert main(["convert", f"{name}:{key}", f"{name}.npy", "--quiet"]) == 0
        assert Path(f"{name}.npy").read_bytes() == Path("source.npy").read_bytes()
        assert main(["compare", name]) == 0
        assert main(["compare", f"{name}:{key}"]) == 0
    for taken in ("queries.npy", "gold.h5"):
        assert main(["convert", "source.npy", taken, "--to", "sisap", *beside, "--force"]) == 2
    for key in ("", "/", ".", "a/../b", "itest", "itest/queries", "/itest/queries/", "itest/knns/x"):
        assert main(["convert", "source.npy", "bad.h5", "--to", "sisap", *beside, "--dst-key", key]) == 2
        assert main(["convert", "source.npy", "bad.h5", "--dst-key", key]) == (0 if key.startswith(("i", "/i")) else 2)
        Path("bad.h5").unlink(missing_ok=True)
    assert main(["convert", "source.npy", "bad.h5", "--to", "sisap", "--gold", "gold.h5"]) == 2
    assert not list(Path().glob("bad*"))


def test_rows_dtype_and_length(capsys: pytest.CaptureFixture[str]) -> None:
    values = rows("float32")[6:]
    source(values)
    assert main(["convert", "source.npy", "part.npy", "--rows", "100:350", "--quiet"]) == 0
    assert same(np.load("part.npy"), values[100:350])
    code, out = said(["convert", "source.npy", "half.zarr", "--dtype", "float16", "--json"], capsys)
    assert code == 0
    half = values.astype(np.float16)
    assert same(zarr.open_array("half.zarr", mode="r")[:], half)
    assert json.loads(out)["error"] == np.abs(values - half).max()
    assert main(["convert", "source.npy", "unit.f16bin", "--normalize", "--rows", ":500", "--quiet"]) == 0
    wide = values[:500].astype(np.float64)
    unit = (wide / np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]).astype(np.float16)
    assert same(open_vectors("unit.f16bin")[:], unit)
    assert main(["compare", "source.npy", "unit.f16bin", "--normalize", "--rows", "0:500"]) == 0
    assert main(["compare", "source.npy", "unit.f16bin", "--rows", "0:500"]) == 1


@pytest.mark.parametrize(
    ("options", "change", "line"),
    [
        (
            ["--dtype", "float16"],
            lambda a: a.__setitem__((700, 3), 1e5),
            "row 700 (counted from 0) holds 100000, which float16 cannot hold; scale the rows",
        ),
        (
            ["--dtype", "uint8"],
            lambda a: np.copyto(a, np.arange(ROWS)[:, None]),
            "row 256 (counted from 0) holds 256, which uint8 cannot hold; scale the rows",
        ),
        (
            ["--dtype", "int8"],
            lambda a: a.__setitem__((9, 3), np.nan),
            "row 9 (counted from 0) holds nan, which int8 cannot hold\n",
        ),
        (
            ["--normalize"],
            lambda a: a.__setitem__(800, 0),
            "row 800 (counted from 0) is zero and cannot be given unit length",
        ),
        (["--normalize"], lambda a: a.__setitem__((3, 1), np.inf), "row 3 (counted from 0) is not finite"),
        (["--normalize", "--dtype", "int8"], lambda a: None, "choose --dtype float32"),
        (["--rows", "5:5"], lambda a: None, "--rows 5:5: expected A:B with 0 <= A < B <= 1003"),
        (["--rows", "0:1004"], lambda a: None, "expected A:B"),
        (["--shard-rows", "100", "--chunk-rows", "30"], lambda a: None, "must be a multiple of a chunk's rows, 30"),
        (["--dst-key", "x"], lambda a: None, "--dst-key: zarr files have no such thing"),
        (["--to", "npy", "--compression", "zstd"], lambda a: None, "--compression: npy files have no such thing"),
        (["--shard-rows", "0"], lambda a: None, "--shard-rows 0: must be at least 1"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(
    options: list[str], change: Callable[[np.ndarray], object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.ones((ROWS, D), np.float32)
    change(values)
    code, out = said(["convert", source(values), "a.zarr", *options], capsys)
    assert code == 2
    assert line in out
    assert out.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["source.npy"]


def test_infinities_and_nan_stay_where_floats_become_floats() -> None:
    values = rows("float64")
    assert main(["convert", source(values), "a.npy", "--dtype", "float16", "--quiet"]) == 0
    assert same(np.load("a.npy"), values.astype(np.float16))


def test_compare_names_the_first_difference(capsys: pytest.CaptureFixture[str]) -> None:
    values = rows("float32")
    for name in ("a.zarr", "a.fbin"):
        assert main(["convert", source(values), name, "--quiet"]) == 0
    assert said(["compare", "a.zarr", "a.fbin"], capsys) == (0, f"equal: {ROWS:,} x {D} float32\n")
    with open("a.fbin", "r+b") as file:
        file.seek(8 + (501 * D + 3) * 4)
        file.write(struct.pack("<f", 7.5))
    code, out = said(["compare", "a.zarr", "a.fbin"], capsys)
    assert code == 1
    assert out == f"not equal: first at row 501, component 3: {values[501, 3]:.9g} beside 7.5\n"
    np.save("short.npy", values[:-1])
    assert said(["compare", "a.zarr", "short.npy"], capsys)[0] == 1
    np.save("half.npy", values.astype(np.float16))
    code, out = said(["compare", "a.zarr", "half.npy"], capsys)
    assert (code, "after turning float32 into float16" in out) == (0, True)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_compare_with_its_own_checksums(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = rows("float16")
    words = ["convert", source(values), name, "--quiet", *(["--shard-rows", "100"] if name == "a.zarr" else [])]
    assert main(words) == 0
    assert said(["compare", name], capsys) == (
        0,
        f"equal: {ROWS:,} x {D} float16, as they were written\n",
    )
    file = Path("a.zarr/c/7/0") if name == "a.zarr" else Path("a.h5")
    content = bytearray(file.read_bytes())
    content[content.index(values[750].tobytes()) + 9] ^= 1
    file.write_bytes(content)
    code, out = said(["compare", name], capsys)
    assert code == 1
    first, stop = (int(word) for word in out.split() if word.isdecimal())
    assert first <= 750 < stop
    assert main(["compare", f"{name}:other"]) == 2
    code, out = said(["compare", "missing.h5"], capsys)
    assert (code, "there is no such file" in out) == (2, True)
    code, out = said(["compare", "source.npy"], capsys)
    assert (code, "holds no checksums of gpuknn convert" in out) == (2, True)
    code, out = said(["compare", name, "--rows", "0:9"], capsys)
    assert (code, f"--rows: there is nothing to compare {name} with" in out) == (2, True)


@pytest.mark.parametrize("notes", [{"piece_rows": "5"}, {"piece_rows": 4.0}, {"piece_rows": 0}, {"key": 5}, []])
def test_notes_of_somebody_else(notes: object, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(notes, dict):
        notes = {"crc32c": ["0"], "piece_rows": 4} | notes
    with h5py.File("a.h5", "w") as file:
        file["emb"] = np.ones((4, 3), np.float32)
        file.attrs["gpuknn"] = json.dumps(notes)
    code, out = said(["compare", "a.h5"], capsys)
    assert (code, "holds no checksums of gpuknn convert" in out, out.count("\n")) == (2, True, 1)


def test_names_without_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    source(rows("float32"))
    for name in ("target", "pieces", "manifest.json", "replaced", "gpuknn.lock", "store"):
        to = "zarr" if name == "store" else "npy"
        assert main(["convert", "source.npy", name, "--to", to, "--quiet"]) == 0
        assert open_vectors(name)[:].tobytes() == rows("float32").tobytes()
    assert main(["compare", "source.npy", "store"]) == 0
    assert said(["compare", "source.npy", "target"], capsys)[0] == 0
    code, out = said(["convert", "source.npy", "other"], capsys)
    assert (code, "its name tells no format" in out) == (2, True)


def test_a_store_replaces_a_file_and_a_file_a_store() -> None:
    source(rows("float32"))
    Path("a.zarr").write_text("a file")
    for to in ("zarr", "npy", "zarr"):
        assert main(["convert", "source.npy", "a.zarr", "--to", to, "--force", "--quiet"]) == 0
        assert open_vectors("a.zarr")[:].tobytes() == rows("float32").tobytes()
        assert sorted(p.name for p in Path().iterdir()) == ["a.zarr", "source.npy"]


def test_existing_and_impossible_targets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    values = rows("float16")
    source(values)
    for name in ("a.zarr", "a.h5"):
        assert main(["convert", "source.npy", name, "--quiet"]) == 0
        code, out = said(["convert", "source.npy", name, "--rows", "0:10"], capsys)
        assert code == 2
        assert out == f"gpuknn: error: {name}: exists already; --force replaces it\n"
        assert len(open_vectors(name)) == ROWS
        assert main(["convert", "source.npy", name, "--rows", "0:10", "--force", "--quiet"]) == 0
        assert same(open_vectors(name)[:], values[:10])
    Path("a.zarr/notes.txt").write_text("precious")
    code, out = said(["convert", "source.npy", "a.zarr", "--force"], capsys)
    assert (code, "is not one Zarr array, it holds notes.txt" in out) == (2, True)
    for words in (["a.h5", "a.h5"], ["a.zarr", "a.zarr"], ["a.zarr", "a.zarr/b.npy"]):
        code, out = said(["convert", *words, "--force"], capsys)
        assert (code, "an input of this very command" in out) == (2, True)
    assert len(open_vectors("a.zarr")) == 10
    shutil.copytree("a.zarr", "outer/a.zarr")
    assert said(["convert", "outer/a.zarr", "outer", "--to", "zarr", "--force"], capsys)[0] == 2
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    for name in (".", "", "a\0.zarr", "x" * 300 + ".zarr", "x" * 252 + ".npy"):
        code, out = said(["convert", "../source.npy", name, "--to", "zarr", "--force"], capsys)
        assert (code, out.count("\n")) == (2, 1)
    monkeypatch.chdir("..")
    assert main(["convert", "source.npy", "nowhere/a.npy"]) == 2
    Path("plain").write_text("")
    assert main(["convert", "source.npy", "plain/a.npy"]) == 2
    code, out = said(["convert", "source.npy", "a.xyz"], capsys)
    assert (code, "its name tells no format" in out) == (2, True)


@pytest.mark.slow
def test_real_files() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    bigann = SHARED / "data/bigann"
    for name, key in (
        ("siftsmall_learn_256pts.fbin", None),
        ("siftsmall_query.fvecs", None),
        ("bigann10k_u8.npy", None),
    ):
        original = bigann / name
        values = open_vectors(original, key=key)[:]
        for via in ("a.zarr", "a.h5"):
            assert main(["convert", str(original), via, "--force", "--quiet"]) == 0
            assert same(open_vectors(via)[:], values)
            assert main(["convert", via, f"back{original.suffix}", "--force", "--quiet"]) == 0
            if original.suffix != ".npy":
                assert Path(f"back{original.suffix}").read_bytes() == original.read_bytes()
            assert main(["compare", str(original), f"back{original.suffix}"]) == 0
    database = SHARED / "data/debian/debian-minilm384-n=60K.h5"
    assert main(["convert", str(database), "d.zarr", "--quiet"]) == 0
    assert main(["convert", "d.zarr", "d.h5", "--quiet"]) == 0
    with h5py.File(database) as a, h5py.File("d.h5") as b:
        assert same(a["emb"][:], b["emb"][:])
