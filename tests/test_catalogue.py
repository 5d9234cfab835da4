"""The catalogue against the dataset's page, catalogues that somebody else made, and which files are meant by words."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gpuknn
from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.laion.catalogue import ITEM_BYTES, Catalogue, RemoteFile, read_catalogue
from gpuknn.laion.select import Wanted, listed, once, select
from gpuknn.laion.subsets import find_database, find_subset, gold_name
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


# Catalogues of somebody else


def toml(value: Any) -> str:
    """A value as TOML writes it; what stands in a `Raw` is written as it is."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" if not letter.isalnum() else letter for letter in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(name)} = {toml(of)}' for name, of in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Raw:
    def __init__(self, text: str) -> None:
        self.text = text


GOOD: dict[str, Any] = {"name": "a.h5", "bundle": "b", "kind": "database"}
PARTS: dict[str, Any] = {"name": "p{part}.npy", "bundle": "b", "kind": "part", "parts": ["08", "11"]}


def written(path: Path, *files: dict[str, Any], **said: Any) -> Path:
    """A catalogue of one sound file, and then these."""
    whole = {"base_url": "http://h/x", "bundles": [{"name": "b", "metric": "l2"}], "files": [GOOD, *files]} | said
    path.write_text("\n".join(f"{name} = {toml(value)}" for name, value in whole.items()), "utf-8")
    return path


def refused(path: Path, base_url: str | None = None) -> str:
    """The line that says so, without the file's name, which comes first."""
    with pytest.raises(InputError) as caught:
        read_catalogue(path, base_url)
    said = str(caught.value)
    assert said.isprintable()
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_a_sound_catalogue(tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", PARTS | {"part_subsets": {"S": ["09", "10"]}}, title="T")
    read = read_catalogue(path)
    assert (read.title, read.first_bundle, read.subsets) == ("T", "b", ["S"])
    assert read.files[0] == RemoteFile("a.h5", "b", "database", "http://h/x/a.h5")
    assert [file.name for file in read.files[1:]] == ["p08.npy", "p09.npy", "p10.npy", "p11.npy"]
    assert [file.url for file in read.files[1:]] == [f"http://h/x/p{n}.npy" for n in ("08", "09", "10", "11")]
    assert [file.subsets for file in read.files[1:]] == [(), ("S",), ("S",), ()]
    assert read_catalogue(written(tmp_path / "c.toml")).title == "c.toml"


@pytest.mark.parametrize("name", ["a", "A+b@c=d_e-f.h5", "0" * 200, "a..b", "a.", "run.h5", "apart"])
def test_names_of_files(name: str, tmp_path: Path) -> None:
    (_, file) = read_catalogue(written(tmp_path / "c.toml", GOOD | {"name": name})).files
    assert (file.name, file.url) == (name, f"http://h/x/{name.replace('+', '%2B')}")


ODD_NAMES = [
    *("../a", "a/b", "/etc/passwd", "..", ".", "", ".hidden", ".gpuknn", "-o", "--fresh", "a" * 201, "a" * 300),
    *("a\0b", "a\nb", "a\n", "\x1b[31ma", "a\tb", "a b", "a\\b", "ä", "a\u202eb", "a:b", "a*", "~a", "C:a"),
    *("a%2fb", "{part}", "a.h5.run", "a.part", ".run", "a.h5.run.part"),
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    printable = name.isprintable()
    for field in ("name", "subset", "queries", "gold"):
        said = refused(written(path, GOOD | {field: name}))
        assert said.startswith("file 2: ")
        assert (f"{name!r} is refused" in said) if printable else f"{field} has letters" in said
    assert refused(written(path, PARTS | {"part_subsets": {name: ["08", "09"]}})).startswith(f"file 2: {name!r} is ref")
    assert refused(written(path, PARTS | {"name": f"{name}/{{part}}"})).startswith("file 2: ")
    assert refused(written(path, bundles=[{"name": "b"}, {"name": name}])).startswith("bundle 2: ")


@pytest.mark.parametrize("url", ["http://h/x", "https://u:p@h:8080/x?y=z#f", "HTTP://h", "http://[::1]/x", "https://h"])
def test_addresses_that_are_taken(url: str, tmp_path: Path) -> None:
    assert read_catalogue(written(tmp_path / "c.toml", GOOD | {"name": "b", "url": url})).files[1].url == url
    assert read_catalogue(written(tmp_path / "c.toml", base_url=url)).files[0].url == f"{url}/a.h5"


ODD_URLS = [
    *("file:///etc/passwd", "file:etc", "ftp://h/a", "s3://h/a", "data:,a", "javascript:1", "//h/a", "h/a", "/a", "x"),
    *("http:///a", "http:/h/a", "http:h", "http://", "https://:80/a", "http://[h/a", "http://h:0/a", "http://h:99999/a"),
    *("http://h:x/a", "http://h/a b", "http://h /a", " http://h/a", "http://h/a\n", "http://h/\x1b", "http://h/\0", "http://ä/"),
]  # fmt: skip


@pytest.mark.parametrize("url", ODD_URLS)
def test_addresses_that_are_refused(url: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    assert refused(written(path, GOOD | {"name": "b", "url": url})).startswith("file 2: ")
    said = refused(written(path, base_url=url))
    assert said.startswith("file 1: " if url.isprintable() else "base_url has letters")
    with pytest.raises(InputError) as caught:
        read_catalogue(written(path), url)
    assert str(caught.value).startswith(f"the mirror: {url!r} is refused")


def test_no_address(tmp_path: Path) -> None:
    assert refused(written(tmp_path / "c.toml", base_url="")).startswith("file 1: '' is refused")
    with pytest.raises(InputError, match="the mirror: '' is refused"):
        read_catalogue(written(tmp_path / "c.toml"), "")


def test_a_mirror(laion: Catalogue, tmp_path: Path) -> None:
    mirror = read_catalogue(None, "http://127.0.0.1:1/m/")
    assert [file.url for file in mirror.files] == [f"http://127.0.0.1:1/m/{file.name}" for file in laion.files]
    assert [file.md5 for file in mirror.files] == [file.md5 for file in laion.files]
    own = read_catalogue(written(tmp_path / "c.toml", GOOD | {"name": "b+c", "url": "http://o/x"}), "https://m")
    assert [file.url for file in own.files] == ["https://m/a.h5", "https://m/b%2Bc"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        *(({field: True}, f"{field} must be ") for field in ("rows", "dims", "bytes")),
        *(({field: value}, f"{field} must be ") for field in ("rows", "bytes") for value in (-1, 2**63, "1")),
        ({"rows": Raw("0x" + "f" * 400)}, "rows must be "),
        ({"dims": 1.5}, "dims must be "),
        ({"rows": Raw("nan")}, "rows must be "),
        ({"rows": Raw("1979-05-27")}, "rows must be "),
        ({"dims": [1]}, "dims must be "),
        *(({field: 7}, f"{field} must be ") for field in (*GOOD, "url", "md5", "key", "dtype")),
        *(({field: ["a"]}, f"{field} must be text") for field in ("subset", "queries", "gold", "note", "size")),
        ({"name": {"a": "b"}}, "name must be text"),
        ({"note": "\x1b[2J"}, "note has letters that cannot be printed"),
        ({"key": "a\nb"}, "key has letters that cannot be printed"),
        ({"sha256": "0"}, "there is no field 'sha256'; there are name, bundle"),
        ({"a\n\x1b": "0"}, "there is no field 'a\\n\\x1b'"),
        ({"numbered": True}, "there is no field 'numbered'"),
        ({"subsets": ["S"]}, "there is no field 'subsets'"),
        ({"bundle": "c"}, "there is no bundle 'c' in this catalogue"),
        ({"kind": "file"}, "kind 'file': there are database, queries, gold"),
        *(({"md5": md5}, f"md5 {md5!r}: must") for md5 in ("0" * 31, "0" * 33, "A" * 32, "g" * 32, "", "\u0663" * 32)),
        *(({"size": size}, f"size {size!r}: must be") for size in ("", "7.77M", "7,7M", "-1K", "12345K", "1P")),
        *(({"size": size}, f"size {size!r}: must") for size in ("1.5 G", "147 GB", "M", ".5M", "1e9", "1k", "\u0663K")),
        ({"parts": "0000"}, "parts must be a list"),
        ({"part_subsets": ["S"]}, "part_subsets must be a table"),
    ],
)  # fmt: skip
def test_fields_that_are_refused(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    told = refused(written(tmp_path / "c.toml", GOOD | row))
    assert told.startswith(f"file 2: {said}")


@pytest.mark.parametrize(
    "ends",
    [
        *([], ["0"], ["0", "1", "2"], [0, 1], ["0", 1], [True, True], [["0"], ["1"]], ["a", "b"], ["-1", "1"]),
        *(["1", "0"], ["0", "100000"], ["0", "999999999"], ["", "1"], ["0", "1" * 10], ["0 ", "1"], ["0", "1\n"]),
        *(["\u0660", "\u0663"], ["0x0", "0x1"], [{"a": "0"}, "1"], [1.0, 2.0]),
    ],
)
def test_parts_that_are_refused(ends: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    for row in (PARTS | {"parts": ends}, PARTS | {"part_subsets": {"S": ends}}):
        said = refused(written(path, row))
        assert said.startswith("file 2: ")
        assert "number" in said


def test_subsets_of_parts_are_the_first_and_the_last(tmp_path: Path) -> None:
    for odd in ("08", 8, {"a": "b"}, True):
        said = refused(written(tmp_path / "c.toml", PARTS | {"part_subsets": {"S": odd}}))
        assert said.startswith("file 2: numbered files are given by the first and the last number")


@pytest.mark.parametrize("missing", ["name", "bundle", "kind"])
def test_rows_that_lack_something(missing: str, tmp_path: Path) -> None:
    row = {field: value for field, value in GOOD.items() if field != missing}
    assert refused(written(tmp_path / "c.toml", row)) == f"file 2: has no {missing}"


@pytest.mark.parametrize(
    ("bundle", "said"),
    [
        ({}, "'' is refused"),
        ({"name": 3}, "name must be "),
        ({"name": "c", "metric": "jaccard"}, "metric 'jaccard': there are cosine, ip, l2, hamming"),
        ({"name": "c", "metric": "COSINE"}, "metric 'COSINE'"),
        ({"name": "c", "metric": ["l2"]}, "metric must be text"),
        ({"name": "c", "files": []}, "there is no field 'files'; there are name, title, metric"),
        ({"name": "c", "title": "\x07"}, "title has letters"),
    ],
)
def test_bundles_that_are_refused(bundle: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", bundles=[{"name": "b"}, bundle])
    assert refused(path).startswith(f"bundle 2: {said}")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"title": 3}, "title must be "),
        ({"title": "\x1b]0;"}, "title has letters that cannot be printed"),
        ({"base_url": ["http://h"]}, "base_url must be text"),
        ({"bundles": {"b": {}}}, "bundles must be a list"),
        ({"bundles": ["b"]}, "bundles: must be rows in braces"),
        ({"files": {"a": 1}}, "files must be a list"),
        ({"files": ["a", "b"]}, "files: must be rows in braces"),
        ({"files": []}, "has 0 files"),
        ({"version": 2}, "there is no field 'version'; there are title, base_url, bundles, files"),
    ],
)
def test_catalogues_that_are_refused(said: dict[str, Any], told: str, tmp_path: Path) -> None:
    assert refused(written(tmp_path / "c.toml", **said)).startswith(told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has 0 files"),
        (b"bundles = 3 4", "cannot be read as a catalogue ("),
        (b"a = 1\na = 2", "cannot be read as a catalogue ("),
        (b'title = "\x1b"', "cannot be read as a catalogue ("),
        (b'title = "\xff"', "cannot be read as a catalogue ("),
        (b"\x89HDF\r\n\x1a\n", "cannot be read as a catalogue ("),
        (b'title = "\\ud800"', "cannot be read as a catalogue ("),
        (b"files = " + b"[" * 100_000, "cannot be read as a catalogue (maximum recursion depth"),
        (b"files = " + b"{a = " * 100_000, "cannot be read as a catalogue (maximum recursion depth"),
        (b"files = [{rows = " + b"9" * 5_000 + b"}]", "cannot be read as a catalogue ("),
    ],
)
def test_files_that_are_no_catalogue(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    assert refused(path).startswith(told)


def test_places_that_hold_no_catalogue(tmp_path: Path) -> None:
    assert refused(tmp_path) == "cannot be read as a catalogue (Is a directory)"
    assert refused(tmp_path / "none.toml") == "cannot be read as a catalogue (No such file or directory)"
    with pytest.raises(InputError, match="cannot be read as a catalogue"):
        read_catalogue("a\0b")


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    said = refused(written(tmp_path / "c.toml", GOOD | {"rows": Raw("0x" + "f" * 5_000)}))
    assert said.startswith("file 2: rows must be a whole number")


@pytest.mark.parametrize("row", [True, False])
def test_dotted_keys_that_nest_deeply(row: bool, tmp_path: Path) -> None:
    path, dots = tmp_path / "c.toml", ".a" * 3_000
    path.write_text(f"files = [{{name{dots} = 1}}]" if row else f"title{dots} = 1")
    assert refused(path).startswith("file 1: name must be text" if row else "title must be text")


def test_rows_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    sound = {"md5": "0" * 32, "size": "1K", "bytes": 5, "url": "http://h/x/1"}
    arrays = [GOOD | sound | {"kind": kind, "key": key} for kind, key in (("database", "train"), ("queries", "test"))]
    read = read_catalogue(written(path, files=arrays))
    assert [file.key for file in read.files] == ["train", "test"]
    assert once(read.files) == [read.files[0]]
    for field, value in (("md5", "1" * 32), ("size", "2K"), ("bytes", 6), ("url", "http://h/x/2")):
        said = refused(written(path, files=[*arrays, arrays[0] | {field: value}]))
        assert said == "a.h5: its rows have different addresses, sizes or md5 sums"
    assert refused(written(path, files=[arrays[0], GOOD | {"url": sound["url"]}])).startswith("a.h5: its rows")
    for row in ({"name": "p", "url": "http://h/{part}"}, {"url": "http://h/p"}):
        assert refused(written(path, PARTS | row)).startswith("file 2: numbered files have {part} in name and url")


def test_a_subset_of_all_numbered_files(tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", PARTS | {"subset": "S"})
    assert "part_subsets in place of subset" in refused(path)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.one_of(TEXTS, st.booleans(), st.integers(), st.floats(), st.sampled_from([*GOOD.values(), "http://h", "part"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
FIELDS = st.sampled_from([*RemoteFile.__dataclass_fields__, "subset", "parts", "part_subsets", "url", "x"])


@given(row=st.dictionaries(FIELDS, VALUES, max_size=4), field=st.sampled_from(["files", "bundles", "title", "x"]))
@example(row={}, field="files")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_read_or_refused(row: dict[str, Any], field: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    written(path, GOOD | row if field == "files" else GOOD, **({} if field == "files" else {field: [row]}))
    try:
        read = read_catalogue(path)
    except InputError as error:
        said = str(error)
        assert said.isprintable()
        assert said.startswith(f"{path}: ")
        return
    for file in read.files:
        assert re.fullmatch(r"[A-Za-z0-9][^/\\\s]*", file.name)
        assert not file.name.endswith((".run", ".part"))
        assert (tmp_path / file.name).parent == tmp_path
        assert file.url.lower().startswith(("http://", "https://"))


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "c.toml", GOOD | {"name": "../\x1b[2Ja"})
    for words in (["data", "list"], ["data", "get", "b"], ["data", "verify"], ["exact", "--subset", "S"]):
        assert main([*words, "--catalogue", str(path), "--data-dir", str(tmp_path / "data")]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        assert f"gpuknn: error: {path}: file 2: name has letters" in shown.err
        assert "\x1b" not in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]


# The catalogues of other datasets


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


# What is meant by words


def names(files: list[RemoteFile]) -> list[str]:
    return [file.name for file in files]


def test_the_files_of_a_subset(laion: Catalogue) -> None:
    assert names(select(laion, Wanted(["10M"], queries="public", gold="f64", meta=True))) == [
        "laion2B-en-clip768v2-n=10M.h5",
        "public-queries-10k-clip768v2.h5",
        "laion2B-en-public-gold-standard-v2-10M-F64-IEEE754.h5",
        "meta-10M.tsv",
    ]
    assert names(select(laion, Wanted(["10M"]))) == ["laion2B-en-clip768v2-n=10M.h5"]
    assert names(select(laion, Wanted(["10M", "300K"], "hamming", queries="private"))) == [
        "laion2B-en-hammingv2-n=10M.h5",
        "laion2B-en-hammingv2-n=300K.h5",
        "private-queries-10k-hammingv2.h5",
    ]
    assert names(select(laion, Wanted(["30M"], gold="f64"))) == [
        "laion2B-en-clip768v2-n=30M.h5",
        "laion2B-en-public-gold-standard-v2-30M-F64-IEEE754.h5",
        "laion2B-en-private-gold-standard-v2-30M-F64-IEEE754.h5",
    ]


def test_the_parts_of_a_subset(laion: Catalogue) -> None:
    parts = names(select(laion, Wanted(["10M"], "raw")))
    numbers = range(1, 12)
    assert parts == [f"img_emb_{n:04d}.npy" for n in numbers] + [f"metadata_{n:04d}.parquet" for n in numbers]
    assert names(select(laion, Wanted(["10M"], "raw", meta=True))) == ["meta-10M.tsv", *parts]
    assert len(select(laion, Wanted(["100M"], "raw"))) == 222
    assert len(select(laion, Wanted(["raw"]))) == 224
    assert names(select(laion, Wanted(["img_emb_0000.npy"]))) == ["img_emb_0000.npy"]


def test_files_by_other_words(laion: Catalogue) -> None:
    assert select(laion, Wanted()) == []
    pca = [file for file in laion.files if file.bundle == "pca32"]
    assert len(pca) == 7
    assert select(laion, Wanted(["pca32"])) == select(laion, Wanted([], "pca32")) == pca
    assert names(select(laion, Wanted(["private*hamming*"]))) == ["private-queries-10k-hammingv2.h5"]
    assert names(select(laion, Wanted(["*hamming*"]))) == names([f for f in laion.files if "hamming" in f.name])
    assert names(select(laion, Wanted(["meta-10M.tsv"]))) == ["meta-10M.tsv"]
    assert names(select(laion, Wanted(["*n=100K*"], "pca96"))) == ["laion2B-en-pca96v2-n=100K.h5"]
    assert len(select(laion, Wanted(["*"]))) == 271
    assert names(select(laion, Wanted(["binwalk", "100K", "meta-10M.tsv", "100K"]))) == [
        "laion2B-en-clip768v2-n=100K.h5",
        "meta-10M.tsv",
        "binwalk-model-nrefs=1024-permsize=64.jld2",
    ]


SUBSETS = "100M, 30M, 10M, 300K, 100K"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(["11M"]), f"11M: is no subset ({SUBSETS}), no bundle (clip768, pca32"),
        (Wanted(["10M", "11M"]), "11M: is no subset"),
        (Wanted(["HAMMING"]), "HAMMING: is no subset"),
        (Wanted(["/etc/*"]), "/etc/*: is no subset"),
        (Wanted([""]), ": is no subset"),
        (Wanted(["10M"], "pca64"), 'bundle="pca64": there are clip768, pca32, pca96, hamming, meta, binwalk, raw'),
        (Wanted(["100K"], "raw"), 'bundle="raw": has no subset 100K; those that have it are clip768, pca32, pca96'),
        (Wanted(["pca32"], queries="public"), f"queries: goes with a subset; there are {SUBSETS}"),
        (Wanted([], "pca32", gold="f32"), f"gold: goes with a subset; there are {SUBSETS}"),
        (Wanted(["*"], meta=True), f"meta: goes with a subset; there are {SUBSETS}"),
        (Wanted(["100K"], gold="f64"), 'gold="f64": there is none for 100K in bundle clip768; there are f32'),
        (Wanted(["10M"], gold="f16"), 'gold="f16": there is none for 10M in bundle clip768; there are f32, f64'),
        (Wanted(["10M"], "pca32", gold="f32"), 'gold="f32": there is none for 10M in bundle pca32'),
        (Wanted(["10M"], queries="secret"), 'queries="secret": there is none for 10M in bundle clip768; there are pub'),
        (Wanted(["100K"], meta=True), "meta=True: there is none for 100K"),
        (Wanted(["10M", "100K"], meta=True), "meta=True: there is none for 100K"),
    ],
)  # fmt: skip
def test_words_that_mean_no_file(wanted: Wanted, said: str, laion: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        select(laion, wanted)
    assert str(caught.value).startswith(said)


def test_captions_that_are_missing_are_not_said_to_be_of_a_bundle(laion: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        select(laion, Wanted(["100K"], meta=True))
    assert "bundle clip768" not in str(caught.value)


def test_what_a_list_shows(laion: Catalogue) -> None:
    everything = list(laion.files)
    assert listed(laion, [], None, None) == everything
    of_10m = listed(laion, [], None, "10M")
    assert of_10m == [file for file in everything if "10M" in file.subsets]
    assert len(of_10m) == 4 + 4 + 1 + 22
    assert names(listed(laion, [], "pca96", "10M")) == ["laion2B-en-pca96v2-n=10M.h5"]
    assert listed(laion, ["10M"], None, None) == of_10m
    assert names(listed(laion, ["meta", "binwalk"], None, None))[:2] == ["meta-10M.tsv", "meta-30M.tsv"]
    assert names(listed(laion, ["private*"], "hamming", None)) == ["private-queries-10k-hammingv2.h5"]
    for what, bundle, subset, said in (
        (["nothing"], None, None, "nothing: is no subset"),
        (["pca32", "*pca96*"], "pca32", None, r"\*pca96\*: is no subset"),
        ([], "pca64", None, 'bundle="pca64": there are'),
        ([], None, "11M", f'subset="11M": there are {SUBSETS}'),
    ):
        with pytest.raises(InputError, match=said):
            listed(laion, what, bundle, subset)


def test_a_list_has_a_row_for_each_array() -> None:
    read = read_catalogue(CATALOGUES / "ann-benchmarks.toml")
    keys = [file.key for file in listed(read, ["sift*"], None, None)]
    assert keys == ["train", "test", "neighbors"]
    assert names(select(read, Wanted(["sift*"]))) == ["sift-128-euclidean.hdf5"]


# Subsets


@pytest.mark.parametrize("bundle", [None, *VECTORS])
@pytest.mark.parametrize("queries", ["public", "private"])
def test_subsets_of_a_bundle(bundle: str | None, queries: str, laion: Catalogue) -> None:
    for name, rows in ROWS.items():
        subset = find_subset(laion, name, bundle, queries)
        assert subset.metric == METRICS[bundle or "clip768"]
        assert (subset.name, subset.database.rows, subset.queries.queries) == (name, rows, queries)
        assert subset.database.bundle == subset.queries.bundle == (bundle or "clip768")
        assert subset.database == find_database(laion, name, bundle)
        assert bool(subset.golds) == (bundle in (None, "clip768") and (queries == "public" or rows > 10**6))
        assert gold_name(subset, 77) == f"{subset.database.name[:-3]}-{queries}-k=77-gpuknn.h5"


@pytest.mark.parametrize(
    ("find", "said"),
    [
        (lambda c: find_subset(c, "11M", None, "public"), f'subset="11M": there are sample, {SUBSETS}'),
        (
            lambda c: find_subset(c, "10M", "pca64", "public"),
            'bundle="pca64": there are clip768, pca32, pca96, hamming',
        ),
        (lambda c: find_subset(c, "10M", "raw", "public"), 'bundle="raw": there are clip768, pca32, pca96, hamming'),
        (lambda c: find_subset(c, "10M", None, "secret"), 'queries="secret": there are public, private'),
        (lambda c: find_database(c, "sample", None), 'subset="sample": has no database in bundle clip768'),
    ],
)
def test_subsets_that_there_are_not(find: Callable[[Catalogue], object], said: str, laion: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        find(laion)
    assert str(caught.value) == said


@pytest.mark.parametrize("bundle", VECTORS)
def test_paths_of_a_subset(bundle: str, tmp_path: Path) -> None:
    infix = f"{bundle}v2"
    found = tmp_path / f"laion2B-en-{infix}-n=300K.h5", tmp_path / f"private-queries-10k-{infix}.h5"
    for missing in found:
        with pytest.raises(InputError, match="is missing") as caught:
            gpuknn.subset_files("300K", bundle=bundle, queries="private", data_dir=tmp_path)
        assert str(caught.value).startswith(f"{missing}: ")
        assert f"gpuknn data get 300K --bundle {bundle} --queries private --data-dir {tmp_path}" in str(caught.value)
        missing.touch()
    assert gpuknn.subset_files("300K", bundle=bundle, queries="private", data_dir=tmp_path) == found


def test_the_sample_has_neither_bundles_nor_other_queries() -> None:
    for options in ({"bundle": "clip768"}, {"queries": "private"}):
        with pytest.raises(InputError, match="the sample has public queries only, and no bundles"):
            gpuknn.subset_files("sample", **options)


def test_several_arrays_in_a_file(tmp_path: Path) -> None:
    rows = [
        {"kind": "database", "subset": "S", "key": "train"},
        {"kind": "queries", "queries": "public", "key": "itest/queries"},
        {"kind": "queries", "queries": "far", "key": "otest/queries"},
    ]
    path = written(tmp_path / "c.toml", files=[GOOD | row for row in rows])
    vectors = np.random.default_rng(0).standard_normal((9, 4), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for n, row in enumerate(rows):
            file[row["key"]] = vectors[n:]
    for queries, key, n in (("public", "itest/queries", 1), ("far", "otest/queries", 2)):
        found = gpuknn.subset_files("S", queries=queries, data_dir=tmp_path, catalogue=path)
        assert found == (f"{tmp_path}/a.h5:train", f"{tmp_path}/a.h5:{key}")
        assert np.array_equal(gpuknn.open_vectors(found[0])[:], vectors)
        assert np.array_equal(gpuknn.open_vectors(found[1])[:], vectors[n:])
    single = written(tmp_path / "c.toml", files=[GOOD | rows[0], GOOD | rows[1] | {"name": "q.h5"}])
    (tmp_path / "q.h5").touch()
    assert gpuknn.subset_files("S", data_dir=tmp_path, catalogue=single) == (tmp_path / "a.h5", tmp_path / "q.h5")
