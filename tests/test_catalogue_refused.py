"""Catalogues of somebody else: what is read, and what is refused with the file and the row."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpuknn.cli.main import main
from gpuknn.errors import InputError
from gpuknn.laion.catalogue import Catalogue, RemoteFile, read_catalogue
from gpuknn.laion.select import once


@pytest.fixture(scope="module")
def laion() -> Catalogue:
    return read_catalogue()


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


@pytest.mark.parametrize("url", ["http://h/x", "https://h:8080/x?y=z#f", "HTTP://h", "http://[::1]/x", "https://h"])
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


def test_passwords_are_refused(tmp_path: Path) -> None:
    """They would stand in messages, in JSON and in what an unfinished download leaves."""
    for url in ("https://u:p@h/x", "http://u@h/x", "http://u:p@ss@h/x"):
        said = refused(written(tmp_path / "c.toml", GOOD | {"url": url}))
        assert said.endswith("is refused: an address begins with http:// or https:// and has no password")


def test_no_address(tmp_path: Path) -> None:
    assert refused(written(tmp_path / "c.toml", base_url="")).startswith(
        "file 1: has no url, and the catalogue has no base_url"
    )
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
        ({"files": []}, "has no files"),
        ({"version": 2}, "there is no field 'version'; there are title, base_url, bundles, files"),
    ],
)
def test_catalogues_that_are_refused(said: dict[str, Any], told: str, tmp_path: Path) -> None:
    assert refused(written(tmp_path / "c.toml", **said)).startswith(told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no files"),
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


def test_the_shipped_subset_is_in_no_catalogue(tmp_path: Path) -> None:
    for row in (GOOD | {"subset": "sample"}, PARTS | {"part_subsets": {"sample": ["08", "09"]}}):
        assert "subset sample is the one that is shipped" in refused(written(tmp_path / "c.toml", row))
    assert "part_subsets goes with parts" in refused(written(tmp_path / "c.toml", GOOD | {"part_subsets": {}}))


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
