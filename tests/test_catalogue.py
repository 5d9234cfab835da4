"""The catalogue against the dataset's page, and the catalogues of other datasets."""

import hashlib
import re
from pathlib import Path

import h5py
import pytest

from gpuknn.laion.catalogue import ITEM_BYTES, Catalogue, RemoteFile, read_catalogue
from gpuknn.laion.subsets import find_subset
from tests.oracle import SHARED

CATALOGUES = Path(__file__).parents[1] / "configs" / "catalogues"
S3 = "https://sisap-23-challenge.s3.amazonaws.com/SISAP23-Challenge/"
ROWS = {"100K": 100_000, "300K": 300_000, "10M": 10_120_191, "30M": 30_369_256, "100M": 102_144_212}
VECTORS = {"clip768": (768, "emb"), "pca32": (32, "pca32"), "pca96": (96, "pca96"), "hamming": (16, "hamming")}
METRICS = {"clip768": "cosine", "pca32": "l2", "pca96": "l2", "hamming": "hamming"}
HEADINGS = {
    "768d clip embeddings (clip768)": ("clip768", None),
    "32d PCA projections (pca32)": ("pca32", None),
    "96d PCA projections (pca96)": ("pca96", None),
    "1024-bit binary sketches (hamming)": ("hamming", None),
    "Gold standard list (computed with 32-bit": ("clip768", ("f32", "public")),
    "Gold standard for public queries (computed with 64-bit": ("clip768", ("f64", "public")),
    "Gold standard for private queries (computed with 64-bit": ("clip768", ("f64", "private")),
    "Associated captions and image urls": ("meta", None),
}
"""On the page, above each table: the bundle, and which gold standards."""
SLIP = "private-queries-10k-pca96v2.h5"


@pytest.fixture(scope="module")
def laion() -> Catalogue:
    return read_catalogue()


@pytest.fixture(scope="module")
def page() -> list[tuple[str, str, str, str, str]]:
    """Each row of the tables: its heading, name, description, size and md5."""
    pages = sorted((SHARED / "seed").glob("*.txt"))
    if not pages:
        pytest.skip("needs ../shared")
    found, heading = [], ""
    for line in "\n".join(path.read_text() for path in pages).splitlines():
        heading = next((name for name in HEADINGS if line.startswith(name)), heading)
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) >= 4 and re.fullmatch("[0-9a-f]{32}", cells[3]):
            found.append((heading, cells[0], cells[1], cells[2], cells[3]))
    return found


def by_name(catalogue: Catalogue, name: str) -> RemoteFile:
    (file,) = [file for file in catalogue.files if file.name == name]
    return file


def as_ls(size: int) -> str:
    """As `ls -h` tells it: rounded up, with a decimal below 10."""
    unit = max(0, size.bit_length() - 1) // 10
    tenths, whole = -(-size * 10 // 1024**unit), -(-size // 1024**unit)
    return f"{tenths / 10 if tenths < 100 else whole}{' KMGT'[unit]}".strip()


def test_every_row_of_the_page(laion: Catalogue, page: list[tuple[str, ...]]) -> None:
    assert len(page) == 43
    assert {row[0] for row in page} == set(HEADINGS)
    seen = []
    for heading, name, description, size, md5 in page:
        bundle, gold = HEADINGS[heading]
        slipped = name == SLIP and bundle == "hamming"
        file = by_name(laion, "private-queries-10k-hammingv2.h5" if slipped else name)
        seen.append(file.name)
        if not slipped:
            assert (file.name, file.size, file.md5) == (name, size, md5)
        assert file.bundle == bundle, name
        assert gold in (None, (file.gold, file.queries)), name
        subset = re.match(r"(?:metadata for the )?(\d+[KM]) ", description)
        queries = re.match(r"10k (public|private) query set", description)
        assert file.subsets == ((subset[1],) if subset else ()), name
        assert gold or file.queries == (queries[1] if queries else None), name
        kind = "meta" if bundle == "meta" else "gold" if gold else "queries" if queries else "database"
        assert file.kind == kind, name
    assert len(set(seen)) == 43
    beyond = [file for file in laion.files if file.name not in seen]
    assert {file.kind for file in beyond if file.bundle not in ("raw", "binwalk")} == {"gold"}
    assert all("page does not list" in str(file.note) for file in beyond if file.kind == "gold")


def test_the_slip_of_the_page(laion: Catalogue) -> None:
    file = by_name(laion, "private-queries-10k-hammingv2.h5")
    assert (file.bundle, file.size, file.md5) == ("hamming", "1.3M", "6e9bba2023ff0745ecf47361a837c3a8")
    assert SLIP in str(file.note)
    other = by_name(laion, SLIP)
    assert (other.bundle, other.size, other.md5) == ("pca96", "3.7M", "301330e6d3963dd2db923fd4e858aa4e")


def test_rows_and_types_as_they_are_in_the_files(laion: Catalogue) -> None:
    vectors = [file for file in laion.files if file.kind in ("database", "queries")]
    assert len(vectors) == 4 * (5 + 2)
    for file in vectors:
        dims, key = VECTORS[file.bundle]
        rows = ROWS[file.subsets[0]] if file.kind == "database" else 10_000
        half = "float16" if file.kind == "database" else "float32"
        dtype = {"clip768": half, "hamming": "uint64"}.get(file.bundle, "float32")
        assert (file.rows, file.dims, file.key, file.dtype) == (rows, dims, key, dtype), file.name
    golds = [file for file in laion.files if file.kind == "gold"]
    assert len(golds) == 5 + 4 + 3 + 3
    for file in golds:
        k = 100 if file.gold == "f32" else 1000
        k = (
            k
            if file.queries == "public"
            else 10
            if "not list" not in str(file.note)
            else (10, 1000)[file.size == "77M"]
        )
        assert (file.rows, file.dims, file.key, file.dtype) == (10_000, k, "knns", "int32"), file.name


def test_sizes_are_those_of_the_arrays(laion: Catalogue) -> None:
    """And of a header below 2 KiB: 512 bytes before all, and what HDF5 says of the arrays."""
    files = [file for file in laion.files if file.kind in ("database", "queries", "gold")]
    for file in files:
        assert file.rows
        assert file.dims
        item = 8 if file.kind == "gold" else ITEM_BYTES[str(file.dtype)]
        size = file.rows * file.dims * item + 1024
        assert file.size == as_ls(size), file.name
        fewest, most = file.sizes
        assert most is not None
        assert fewest <= size <= most
    assert len(files) == 43


def test_addresses(laion: Catalogue) -> None:
    for file in laion.files:
        if file.kind in ("database", "meta") or (file.queries, file.gold) in (("public", None), ("public", "f32")):
            assert file.url == S3 + file.name
        elif file.bundle not in ("raw", "binwalk"):
            assert file.url == f"http://ingeotec.mx/~sadit/SISAP23-Challenge/{file.name}"


@pytest.fixture
def model(laion: Catalogue) -> tuple[RemoteFile, Path]:
    """The published BinWalk model: its row, and the file."""
    file = by_name(laion, "binwalk-model-nrefs=1024-permsize=64.jld2")
    path = SHARED / "data" / "clip" / file.name
    if not path.exists():
        pytest.skip("needs ../shared")
    return file, path


def test_the_published_model(model: tuple[RemoteFile, Path]) -> None:
    file, path = model
    content = path.read_bytes()
    assert (file.bytes, file.md5) == (len(content), hashlib.md5(content).hexdigest())
    assert file.url.startswith("https://raw.githubusercontent.com/sisap-challenges/sisap2023/")
    assert file.url.endswith(f"/{file.name}")
    with h5py.File(path) as opened:
        (refs,) = (opened[reference] for reference in opened["model"][()]["refs"])
        assert (refs.shape, refs.dtype) == ((file.rows, file.dims), file.dtype)


def test_the_published_model_has_an_array_of_the_name_that_is_told(model: tuple[RemoteFile, Path]) -> None:
    with h5py.File(model[1]) as opened:
        assert model[0].key is None or model[0].key in opened


def test_raw_parts(laion: Catalogue) -> None:
    parts = [file for file in laion.files if file.bundle == "raw"]
    assert len(parts) == len({file.name for file in parts}) == len({file.url for file in parts}) == 224
    embeddings, metadata = parts[:112], parts[112:]
    root = "https://the-eye.eu/public/AI/cah/laion5b/embeddings/laion2B-en/"
    for n, (vectors, table) in enumerate(zip(embeddings, metadata, strict=True)):
        assert (vectors.name, table.name) == (f"img_emb_{n:04d}.npy", f"metadata_{n:04d}.parquet")
        assert vectors.url == f"{root}img_emb/{vectors.name}"
        assert table.url == f"{root}laion2B-en-metadata/{table.name}"
        members = tuple(name for name, last in (("10M", 11), ("30M", 33), ("100M", 111)) if 1 <= n <= last)
        assert vectors.subsets == table.subsets == members
        assert (vectors.kind, vectors.dims, vectors.dtype) == ("part", 768, "float16")
        assert vectors.numbered
        assert table.numbered
        assert vectors.md5 is table.md5 is None


@pytest.mark.parametrize(
    ("told", "fewest", "most"),
    [
        ("147G", 146 * 2**30, 148 * 2**30),
        ("783K", 782 * 2**10, 784 * 2**10),
        ("1T", 0, 2 * 2**40),
        ("300", 299, 301),
    ],
)
def test_sizes_that_a_page_tells(told: str, fewest: int, most: int) -> None:
    file = RemoteFile("a", "b", "meta", "http://h/a", size=told)
    assert file.sizes == (fewest, most)
    assert file.expected == fewest


def test_sizes_with_a_decimal() -> None:
    fewest, most = RemoteFile("a", "b", "meta", "http://h/a", size="7.7M").sizes
    assert most is not None
    assert 7.59 * 2**20 < fewest <= 7.6 * 2**20
    assert 7.7 * 2**20 <= most < 7.81 * 2**20


def test_what_is_known_of_sizes() -> None:
    file = RemoteFile("a", "b", "meta", "http://h/a", size="7.7M", bytes=8_000_001, rows=10, dims=10**9, dtype="int8")
    assert file.sizes == (8_000_001, 8_000_001)
    assert file.expected == 8_000_001
    nothing = RemoteFile("a", "b", "meta", "http://h/a")
    assert (nothing.sizes, nothing.expected) == ((0, None), 0)
    array = RemoteFile("a", "b", "database", "http://h/a", rows=10, dims=3, dtype="float32", size="0")
    assert array.expected == 120


def test_all_other_catalogues_are_read() -> None:
    paths = sorted(CATALOGUES.glob("*"))
    assert [path.stem for path in paths] == ["ann-benchmarks", "big-ann", "sisap2024", "sisap2025", "sisap2026"]
    for path in paths:
        read = read_catalogue(path)
        assert {file.bundle for file in read.files} == set(read.bundles)
        assert any(bundle.metric for bundle in read.bundles.values())
        for name, bundle in read.bundles.items():
            if bundle.metric:
                assert any(f.kind == "database" and f.bundle == name for f in read.files)
        for file in read.files:
            fewest, most = file.sizes
            if file.rows and file.dims and file.dtype and most is not None:
                assert file.rows * file.dims * ITEM_BYTES[file.dtype] <= most, (file.name, file.key)
            assert fewest <= (most or fewest)
            assert file.queries or file.kind not in ("queries", "gold"), (file.name, file.key)


def test_sisap_2024(laion: Catalogue) -> None:
    read = read_catalogue(CATALOGUES / "sisap2024.toml")
    assert read.bundles["clip768"].metric == "ip"
    databases = [file for file in read.files if file.kind == "database"]
    assert [file.subsets[0] for file in databases] == ["100M", "10M", "1M", "300K"]
    for file in databases:
        if file.subsets != ("1M",):
            assert file == by_name(laion, file.name)
    public = find_subset(read, "300K", None, "public")
    assert public.queries.md5 == by_name(laion, "private-queries-10k-clip768v2.h5").md5
    assert [(gold.gold, gold.dims) for gold in public.golds] == [("dot", 1000)]


def test_sisap_2025_and_2026() -> None:
    read = read_catalogue(CATALOGUES / "sisap2025.toml")
    rows = {f.bundle: f.rows for f in read.files if f.kind == "database"}
    queries = 11_000  # which the page counts among the rows
    assert (rows["gooaq"], rows["pubmed23"]) == (3_012_496 - queries, 23_898_701 - queries)
    (allknn,) = [f for f in read.files if f.gold == "allknn" and f.bundle == "ccnews"]
    assert (allknn.dims, allknn.key) == (32, "knns")
    assert {f.dims for f in read.files if f.kind == "database"} == {384}
    read = read_catalogue(CATALOGUES / "sisap2026.toml")
    (llama,) = [f for f in read.files if f.bundle == "llama-dev" and f.kind == "database"]
    assert (llama.rows, llama.dims, read.bundles["llama-dev"].metric) == (256_921, 128, "ip")
    wikipedia = find_subset(read, "full", "wikipedia", "otest")
    assert (wikipedia.database.rows, wikipedia.database.dims, wikipedia.database.dtype) == (6_350_000, 1024, "float16")
    assert wikipedia.queries.key == "otest/queries"


def test_ann_benchmarks_and_big_ann() -> None:
    read = read_catalogue(CATALOGUES / "ann-benchmarks.toml")
    for file in read.files:
        metric = read.bundles[file.bundle].metric
        assert metric == ("l2" if "euclidean" in file.name else "cosine"), file.name
        dims = {"lastfm-64-dot.hdf5": 65}.get(file.name, int((re.search(r"-(\d+)-", file.name) or "00")[1]))
        assert file.dims == (100 if file.kind == "gold" else dims), file.name
    read = read_catalogue(CATALOGUES / "big-ann.toml")
    assert {name: bundle.metric for name, bundle in read.bundles.items()} == {
        "bigann": "l2",
        "deep": "l2",
        "text2image": "ip",
    }
    exact = [file for file in read.files if file.bytes is not None]
    assert len(exact) == 9
    for file in exact:
        assert file.rows
        assert file.dims
        assert file.bytes == 8 + file.rows * file.dims * ITEM_BYTES[str(file.dtype)]
