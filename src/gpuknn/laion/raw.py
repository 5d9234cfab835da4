"""The raw parts of a dataset as clip-retrieval writes them, and which of them, and which of their rows, make a subset.

`img_emb_0007.npy` (or .npz, .h5) holds the vectors of part 7, `metadata_0007.parquet` what belongs to each of them, by
its position.  They lie in one folder, or in folders `img_emb` and `metadata` of it.  Numbers may have any count of
zeros before them.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gpuknn.errors import InputError, option
from gpuknn.laion.catalogue import Catalogue, RemoteFile
from gpuknn.laion.select import of_subset

VECTORS = re.compile(r"img_emb_(\d{1,9})\.(npy|npz|h5)")
METADATA = re.compile(r"metadata_(\d{1,9})\.parquet")
FOLDERS = ("", "img_emb", "metadata", "laion2B-en-metadata")
"""Where they lie: clip-retrieval's own folders, and that of the parts' publisher."""
QUERIES_PART = 0
"""The part from which the public queries are drawn."""
COLUMNS = ("caption", "NSFW", "LICENSE", "url")
"""Of a subset's captions, in the order of `meta-10M.tsv`."""


@dataclass(frozen=True)
class Rule:
    """Which rows are kept, by a column of the metadata."""

    column: str
    values: tuple[str, ...]
    keeps: bool
    """Whether rows with these values are kept; if not, all others are."""
    missing: bool = False
    """Whether rows without a value are kept."""

    def __str__(self) -> str:
        """As `--rule` writes it."""
        said = f"{self.column}{'=' if self.keeps else '!='}{','.join(self.values)}"
        return f"{said} or missing" if self.missing else said


LARGE = Rule("NSFW", ("NSFW",), keeps=False)
"""Of 10M, 30M and 100M: NSFW is there and is not NSFW, so UNLIKELY and UNSURE stay (the organisers'
laion-gold-standards.jl and 2023/downloading-laion.md)."""
SMALL = Rule("NSFW", ("NSFW",), keeps=False, missing=True)
"""Of 100K and 300K, which also keep rows without NSFW (the dataset's page)."""


@dataclass(frozen=True)
class Recipe:
    """What a bundle is made of."""

    parts: tuple[int, ...] | None
    """Numbers of parts, in order; None: all parts there are, or those from part 1 on that give `most` rows."""
    most: int | None
    """Rows at most: the first that are kept."""
    rule: Rule
    database: str
    """The name of the file of vectors."""
    captions: str
    queries: str
    rows: int | None = None
    """That the published database has."""


@dataclass(frozen=True)
class RawPart:
    """A part's two files."""

    number: int
    vectors: str
    metadata: str


def rule_named(words: str) -> Rule | None:
    """The rule that `COLUMN=A,B` (keep these), `COLUMN!=A,B` (keep other values) or `all` (None) says.

    After either, ` or missing` also keeps rows without a value.  Raises InputError if it says no rule.
    """
    if words == "all":
        return None
    found = re.fullmatch(r"([^=!]+)(!?)=(.+?)( or missing)?", words)
    if not found or not all(values := tuple(map(str.strip, found[3].split(",")))):
        raise InputError(
            f"{option('rule', words)}: must be COLUMN=A,B (rows with one of these values), COLUMN!=A,B (rows with "
            "another value) or all; 'COLUMN!=A or missing' also keeps rows without a value"
        )
    return Rule(found[1].strip(), values, not found[2], bool(found[4]))


def recipe_of(catalogue: Catalogue, subset: str) -> Recipe:
    """How a subset of a catalogue's first bundle is made.  Raises InputError if it is made of no raw parts."""
    databases = of_subset(catalogue, subset, "database", catalogue.first_bundle)
    parts = [file for file in of_subset(catalogue, subset, "part", None) if subset in file.subsets]
    if not databases or (not parts and databases[0].rows is None):
        made = dict.fromkeys(name for file in catalogue.files if file.kind == "part" for name in file.subsets)
        of_first = (f for f in catalogue.files if f.kind == "database" and f.bundle == catalogue.first_bundle)
        small = (name for f in of_first if f.rows is not None for name in f.subsets)
        known = ", ".join(dict.fromkeys([*made, *small])) or "none that raw parts make"
        raise InputError(f"{option('subset', subset)}: there are {known}")
    database = databases[0]
    numbers = sorted({int(found[1]) for file in parts if (found := VECTORS.fullmatch(file.name))})
    queries = next((f for f in of_subset(catalogue, subset, "queries", database.bundle) if f.queries == "public"), None)
    return Recipe(
        tuple(numbers) or None,
        None if numbers else database.rows,
        LARGE if numbers else SMALL,
        database.name,
        f"meta-{subset}.tsv",
        _name(queries),
        database.rows,
    )


def find_parts(folder: Path) -> dict[int, RawPart]:
    """The parts in a folder, by their numbers.

    Raises InputError if there are none, if a part has one of its two files only, or two of a kind.
    """
    vectors = _found(folder, VECTORS)
    metadata = _found(folder, METADATA)
    if not vectors:
        raise InputError(f"{folder}: holds no raw parts: img_emb_0000.npy (or .npz, .h5) and metadata_0000.parquet")
    for number in sorted(vectors.keys() ^ metadata.keys()):
        there, lacks = (vectors, "metadata") if number in vectors else (metadata, "vectors")
        name = f"metadata_{number:04d}.parquet" if lacks == "metadata" else f"img_emb_{number:04d}.npy"
        raise InputError(f"{there[number]}: the {lacks} of part {number} are missing ({name})")
    return {number: RawPart(number, vectors[number], metadata[number]) for number in sorted(vectors)}


def _found(folder: Path, pattern: re.Pattern[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in FOLDERS:
        try:
            files = sorted(os.listdir(folder / name))
        except NotADirectoryError as error:
            raise InputError(f"{folder / name}: is not a folder") from error
        except OSError as error:
            if name:
                continue
            raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
        for file in files:
            if match := pattern.fullmatch(file):
                number, path = int(match[1]), str(folder / name / file)
                if number in found:
                    raise InputError(f"{path}: is part {number}, and so is {found[number]}; move one of them away")
                found[number] = path
    return found


def _name(queries: RemoteFile | None) -> str:
    return queries.name if queries else "public-queries.h5"
