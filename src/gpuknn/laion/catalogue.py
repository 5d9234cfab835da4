"""A catalogue: which files a dataset has, what is in them, and where they are published.

`catalogue.toml` beside this module is LAION2B's.  A user's own has the same format:

    title = "..."                       of the dataset
    base_url = "https://..."            a file's address is this and its name, unless its row has a `url`
    bundles = [{name = ..., metric = ..., title = ...}]
    files = [{name = ..., bundle = ..., kind = ...}]    a row for each array in a file

A row must have `name`, `bundle` and `kind` (one of KINDS).  It may have these, which `RemoteFile` describes: as text
`url`, `subset`, `queries`, `gold`, `dtype`, `key`, `size` ("147G", "7.7M"), `md5` and `note`; as numbers `rows`, `dims`
and `bytes`.  `--subset` finds databases that name their `subset`.

Numbered files are one row, with `parts = ["0000", "0111"]`: the first and the last number.  `{part}` in `name` and
`url` stands for each of them.  `part_subsets = {"10M" = ["0001", "0011"]}` says from where to where they make up a
subset.

A catalogue may be anybody's: a name that could lead out of the data folder is refused, and so is an address that is
neither http nor https.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpuknn.errors import InputError

LAION = Path(__file__).parent / "catalogue.toml"
SHIPPED = "sample"
"""The subset that comes with gpuknn, and is in no catalogue."""
KINDS = ("database", "queries", "gold", "meta", "model", "part")
METRICS = ("cosine", "ip", "l2", "hamming")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+@-]{0,199}")
"""Of files, bundles and sets: no folder, no option, nothing that a terminal would obey."""
TAKEN = re.compile(r".*\.(run|part)|gpuknn\.lock|(manifest(\.copy)?|finished)\.json")
"""Names that gpuknn gives to what is unfinished."""
SIZE = re.compile(r"[0-9]{1,4}(\.[0-9])?[KMGT]?")
MD5 = re.compile(r"[0-9a-f]{32}")
NUMBER = re.compile(r"[0-9]{1,9}")
MOST_FILES = 100_000
TYPES = {str: "text", int: "a whole number from 0 to 2**63 - 1", list: "a list", dict: "a table"}
ITEM_BYTES = {"uint8": 1, "int8": 1, "float16": 2, "int32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8}


@dataclass(frozen=True)
class Bundle:
    """Files that hold the same vectors, or belong together in another way."""

    name: str
    title: str = ""
    metric: str | None = None
    """What its vectors are searched under, if it has some."""


@dataclass(frozen=True)
class RemoteFile:
    """An array in a published file; rows of one name speak of one file."""

    name: str
    """In the data folder."""
    bundle: str
    kind: str
    """One of KINDS."""
    url: str
    subsets: tuple[str, ...] = ()
    """Those that it belongs to; none if it belongs to all."""
    queries: str | None = None
    """Of queries and gold standards: the set's name."""
    gold: str | None = None
    """Of gold standards: which generation."""
    rows: int | None = None
    dims: int | None = None
    """Components of a vector; of a gold standard, neighbours of a query."""
    dtype: str | None = None
    key: str | None = None
    """The array's name in the file."""
    size: str | None = None
    """As the page tells it: `ls -h` rounds up, in powers of 1024."""
    bytes: int | None = None
    """The exact size, if known."""
    md5: str | None = None
    note: str | None = None
    numbered: bool = False
    """Whether it is one of many like it, which one row stands for."""

    @property
    def sizes(self) -> tuple[int, int | None]:
        """The fewest and the most bytes that it can have, by what the page tells; None if there is no limit."""
        if self.bytes is not None:
            return self.bytes, self.bytes
        if self.size is None:
            return 0, None
        number, unit = self.size.rstrip("KMGT"), self.size[-1]
        parts = 10 if "." in number else 1
        step, steps = 1024 ** (" KMGT".index(unit) if unit in "KMGT" else 0) // parts, round(float(number) * parts)
        return (steps - 1) * step, (steps + 1) * step

    def allows(self, size: int) -> bool:
        """Whether it may have so many bytes, by what the page tells."""
        fewest, most = self.sizes
        return fewest <= size and (most is None or size <= most)

    @property
    def size_told(self) -> str:
        """Its size as the catalogue tells it."""
        return f"{self.bytes:,}" if self.bytes is not None else self.size or "any number"

    @property
    def expected(self) -> int:
        """Its size in bytes, as far as it is known: at least that of its array."""
        array = (self.rows or 0) * (self.dims or 0) * ITEM_BYTES.get(self.dtype or "", 0)
        return self.bytes if self.bytes is not None else max(array, self.sizes[0])


@dataclass(frozen=True)
class Catalogue:
    """A dataset's files, in the order of its page."""

    title: str
    bundles: Mapping[str, Bundle]
    files: tuple[RemoteFile, ...]

    @property
    def subsets(self) -> list[str]:
        """All that a file belongs to."""
        return list(dict.fromkeys(name for file in self.files for name in file.subsets))

    @property
    def first_bundle(self) -> str:
        """The one that is meant if none is named."""
        return next(iter(self.bundles))


def read_catalogue(path: str | Path | None = None, base_url: str | None = None) -> Catalogue:
    """LAION2B's catalogue, or that of a file; `base_url`: a mirror, which has all files under their names.

    Raises InputError, which names the file and the row, if it is no catalogue.
    """
    place = Path(path) if path else LAION
    try:
        said = tomllib.loads(place.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: cannot be read as a catalogue ({getattr(error, 'strerror', '') or error})"
        ) from error
    _check(said, {"title": str, "base_url": str, "bundles": list, "files": list}, f"{place}")
    bundles = {
        bundle.name: bundle
        for bundle in (_bundle(row, f"{place}: bundle {n}") for n, row in _rows(said, "bundles", place))
    }
    if base_url is not None:
        _check_url(base_url, "the mirror")
    base = said.get("base_url") or base_url or ""
    rows = (file for n, row in _rows(said, "files", place) for file in _files(row, base, bundles, f"{place}: file {n}"))
    files = tuple(islice(rows, MOST_FILES + 1))
    if not 0 < len(files) <= MOST_FILES:
        many = "no files" if not files else f"more than {MOST_FILES:,} files"
        raise InputError(f"{place}: has {many}; a catalogue has at least one and at most {MOST_FILES:,}")
    if base_url is not None:
        files = tuple(replace(file, url=_joined(base_url, file.name)) for file in files)
    _check_same(files, place)
    return Catalogue(said.get("title", place.name), bundles, files)


def _rows(said: dict[str, Any], name: str, place: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a list, counted from 1."""
    for number, row in enumerate(said.get(name, []), 1):
        if not isinstance(row, dict):
            raise InputError(f"{place}: {name}: must be rows in braces, {{name = ...}}")
        yield number, row


def _bundle(row: dict[str, Any], where: str) -> Bundle:
    _check(row, {"name": str, "title": str, "metric": str}, where)
    _check_name(row.get("name", ""), where)
    if row.get("metric") not in (None, *METRICS):
        raise InputError(f"{where}: metric {row['metric']!r}: there are {', '.join(METRICS)}")
    return Bundle(**row)


def _files(row: dict[str, Any], base: str, bundles: Mapping[str, Bundle], where: str) -> Iterator[RemoteFile]:
    """The file of a row, or those of a row of numbered files."""
    texts = dict.fromkeys(("name", "bundle", "kind", "subset", "queries", "gold", "dtype", "key", "size"), str)
    numbers = dict.fromkeys(("rows", "dims", "bytes"), int)
    _check(row, texts | numbers | {"url": str, "md5": str, "note": str, "parts": list, "part_subsets": dict}, where)
    _check_fields(row, bundles, where)
    plain = {field: value for field, value in row.items() if field not in ("subset", "parts", "part_subsets")}
    if "part_subsets" in row and "parts" not in row:
        raise InputError(f"{where}: part_subsets goes with parts, the first and the last number")
    if "parts" not in row:
        subsets = (row["subset"],) if "subset" in row else ()
        yield _file(plain, base, subsets, False, where)
        return
    if "subset" in row or any("{part}" not in plain.get(field, "{part}") for field in ("name", "url")):
        raise InputError(f"{where}: numbered files have {{part}} in name and url, and part_subsets in place of subset")
    (first, last), digits = _ends(row["parts"], where), len(row["parts"][0])
    members = {
        name: range(a, b + 1) for name, (a, b) in ((n, _ends(e, where)) for n, e in row.get("part_subsets", {}).items())
    }
    for number in range(first, last + 1):
        numbered = {
            field: plain[field].replace("{part}", f"{number:0{digits}}") for field in ("name", "url") if field in plain
        }
        yield _file(plain | numbered, base, tuple(name for name in members if number in members[name]), True, where)


def _file(row: Mapping[str, Any], base: str, subsets: tuple[str, ...], numbered: bool, where: str) -> RemoteFile:
    _check_name(row["name"], where)
    if "url" not in row and not base:
        raise InputError(f"{where}: has no url, and the catalogue has no base_url")
    url = row.get("url") or _joined(base, row["name"])
    _check_url(url, where)
    return RemoteFile(**(dict(row) | {"url": url, "subsets": subsets, "numbered": numbered}))


def _check_fields(row: Mapping[str, Any], bundles: Mapping[str, Bundle], where: str) -> None:
    """Raise InputError if a field has a value that none of its kind has."""
    if missing := [field for field in ("name", "bundle", "kind") if field not in row]:
        raise InputError(f"{where}: has no {missing[0]}")
    for name in (
        *(row[field] for field in ("subset", "queries", "gold") if field in row),
        *row.get("part_subsets", {}),
    ):
        _check_name(name, where)
    if SHIPPED in (row.get("subset"), *row.get("part_subsets", {})):
        raise InputError(f"{where}: subset {SHIPPED} is the one that is shipped; give this one another name")
    if row["bundle"] not in bundles:
        raise InputError(f"{where}: there is no bundle {row['bundle']!r} in this catalogue")
    if row["kind"] not in KINDS:
        raise InputError(f"{where}: kind {row['kind']!r}: there are {', '.join(KINDS)}")
    if not SIZE.fullmatch(row.get("size", "1")):
        raise InputError(f"{where}: size {row['size']!r}: must be like 147G, 7.7M or 783K")
    if not MD5.fullmatch(row.get("md5", 32 * "0")):
        raise InputError(f"{where}: md5 {row['md5']!r}: must be 32 hexadecimal digits")


def _ends(ends: Any, where: str) -> tuple[int, int]:
    """The first and the last number of numbered files."""
    if type(ends) is not list or len(ends) != 2 or not all(isinstance(n, str) and NUMBER.fullmatch(n) for n in ends):
        raise InputError(f'{where}: numbered files are given by the first and the last number, as ["0000", "0111"]')
    first, last = map(int, ends)
    if not 0 <= last - first < MOST_FILES:
        raise InputError(f"{where}: the last number must not be below the first, and there may be {MOST_FILES:,} files")
    return first, last


def _check(row: Mapping[str, Any], known: Mapping[str, type[Any]], where: str) -> None:
    """Raise InputError if a field is unknown or of another type; values, which may be endless, are not shown."""
    for name, value in row.items():
        if name not in known:
            raise InputError(f"{where}: there is no field {name[:100]!r}; there are {', '.join(known)}")
        if type(value) is not known[name] or (isinstance(value, int) and not 0 <= value < 2**63):
            raise InputError(f"{where}: {name} must be {TYPES[known[name]]}")
        if isinstance(value, str) and not value.isprintable():
            raise InputError(f"{where}: {name} has letters that cannot be printed")


def _check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name) or TAKEN.fullmatch(name):
        raise InputError(
            f"{where}: {name!r} is refused: names have letters, digits and ._=+@- and begin with one of the first two"
        )


def _check_url(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
        sound = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"{where}: {url!r} is refused: an address begins with http:// or https:// and has no password")


def _joined(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{name.replace('+', '%2B')}"


def _check_same(files: tuple[RemoteFile, ...], place: Path) -> None:
    """Raise InputError if rows of one name speak of different files."""
    ordered = sorted(files, key=lambda file: file.name)
    for name, same in groupby(ordered, key=lambda file: file.name):
        if len({(file.url, file.size, file.bytes, file.md5) for file in same}) > 1:
            raise InputError(f"{place}: {name}: its rows have different addresses, sizes or md5 sums")
