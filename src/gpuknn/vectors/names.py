"""Which files a name stands for: many files, in their order, can be one database.

A name is a path, `FILE:KEY` or a URL.  Four kinds of names stand for many: a folder (all its files of vectors), a
pattern (`parts/*.npy`), a list file (`.txt`, a name on each line) and names with commas between them.
"""

import glob
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuknn.errors import InputError
from gpuknn.storage.location import is_folder, is_url, split_key
from gpuknn.vectors.formats import SUFFIXES

LIST = ".txt"
READ = (*SUFFIXES, ".npz")
"""Suffixes of files of vectors."""
ZARR = ("zarr.json", ".zarray", ".zgroup")
"""What a folder that is a Zarr store holds."""
HASH = re.compile(r"-[0-9a-f]{16}(?=\.)")
"""What Hugging Face's datasets put at the end of a part's name."""
PART_OF = re.compile(r"(\d+)-of-(\d+)")
SHOWN = 2
"""Names that are shown of the first of many, and of the kinds of names in a folder."""


@dataclass(frozen=True)
class Members:
    """The files that a name stands for."""

    files: tuple[tuple[str, str | None], ...]
    """Paths or URLs, each with the key of an array in it."""
    by_number: bool
    """Whether the numbers in their names have put them in order; if not, whoever named them has."""
    asked: tuple[str, ...] = ()
    """The folders, patterns and list files that stand for them."""


def members_of(name: str) -> Members | None:
    """The files that `name` stands for, in order; None if it stands for one file, store or URL.

    Files of a folder or a pattern come in the natural order of their names: `part2` before `part10`.  Others come in
    the order in which they are named.  Raises InputError if there are none, if files of several kinds lie in a folder,
    or if a part is missing by what the others' names tell (`train-00-of-10.parquet`).
    """
    names = split_names(name)
    if len(names) > 1:
        return joined_members(names)
    if is_url(name):
        return None
    place, key = split_key(name)
    path = str(place)
    if not os.path.lexists(path):
        return _matching(path, key) if glob.has_magic(path) else None
    if path.endswith(LIST) and os.path.isfile(path):
        return _listed(Path(path), key)
    return _in_folder(Path(path), key) if is_folder(Path(path)) and not _is_zarr(Path(path), key) else None


def joined_members(names: Sequence[str]) -> Members:
    """The files that several names stand for, one after another."""
    if len(names) == 1 and (alone := members_of(names[0])):
        return alone
    files: list[tuple[str, str | None]] = []
    asked: tuple[str, ...] = ()
    for name in names:
        if not name:
            raise InputError("a name is missing before or after a comma; write a.npy,b.npy")
        found = members_of(name)
        place, key = split_key(name)
        files += found.files if found else [(str(place), key)]
        asked += found.asked if found else ()
    return Members(tuple(files), False, asked)


def split_names(name: str) -> list[str]:
    """The names that commas part; one, if a file, a URL, or an array in a file has commas in its name."""
    if is_url(name):
        return re.split(r", *(?=[a-z0-9]+://)", name)
    place, key = split_key(name)
    names = [one.strip() for one in name.split(",")]
    files = "," in (key or "") and all(os.path.lexists(split_key(one)[0]) for one in names)
    return [name] if os.path.lexists(place) and not files else names


def one_name(names: Sequence[str | os.PathLike[str]]) -> str:
    """The name, for a command line, that stands for all; raises InputError if one has a comma in it."""
    said = [os.fspath(name) for name in names]
    if odd := [name for name in said if "," in name and not is_url(name)]:
        raise InputError(f"{odd[0]}: has a comma in its name; name such files in a list file (.txt)")
    return ",".join(said)


def absolute_name(name: str) -> str:
    """The same files for a process with another working folder."""
    return ",".join(one if is_url(one) else str(Path(one).absolute()) for one in split_names(name))


def gap_among(names: Sequence[str]) -> str:
    """In words, the first number that is missing among names that differ in one number; nothing if none is."""
    numbers = [tuple(map(int, re.findall(r"\d+", HASH.sub("", name)))) for name in names]
    differ = [column for column in zip(*numbers, strict=False) if len(set(column)) > 1]
    if len({_kind(name) for name in names}) > 1 or len(differ) != 1:
        return ""
    found = sorted(set(differ[0]))
    if found[-1] - found[0] >= 2 * len(found):  # numbers that count something else
        return ""
    lacks = next((a + 1 for a, b in itertools.pairwise(found) if b > a + 1), None)
    return "" if lacks is None else f"; there is no number {lacks}"


def shown(files: Sequence[str]) -> str:
    """Some names of many, for messages: the first and the last."""
    if len(files) <= SHOWN + 1:
        return ", ".join(files)
    return f"{', '.join(files[:SHOWN])}, ..., {files[-1]}"


def _is_zarr(folder: Path, key: str | None) -> bool:
    return any((place / name).exists() for place in {folder, folder / (key or "").strip("/")} for name in ZARR)


def _listed(path: Path, key: str | None) -> Members:
    """Those that a file names, one on each line; relative names begin in the folder of that file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of files, one name on each line ({error})") from error
    names = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not names:
        raise InputError(f"{path}: names no files; a list of files has one name on each line")
    files = []
    for name in names:
        place, own = split_key(name if is_url(name) else str(path.parent / name))
        if not is_url(str(place)) and not os.path.lexists(place):
            raise InputError(
                f"{path}: names {name}, and there is no file {place}; a line names one file, and relative names "
                "begin in the folder of the list"
            )
        files.append((str(place), own or key))
    return Members(tuple(files), False, (str(path),))


def _in_folder(folder: Path, key: str | None) -> Members:
    """A folder's files of vectors; what has another suffix or begins with a dot is left alone."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    names = [name for name in names if Path(name).suffix.lower() in READ]
    if not names:
        known = " ".join(READ)
        raise InputError(f"{folder}: is not a readable Zarr array or group, and holds no files of vectors ({known})")
    kinds: dict[str, list[str]] = {}
    for name in sorted(names, key=natural):
        kinds.setdefault(_kind(name), []).append(name)
    if len(kinds) > 1:
        several, most = shown([found[0] for found in kinds.values()]), max(kinds.values(), key=len)
        raise InputError(
            f"{folder}: holds files of {len(kinds)} kinds of names ({several}); say which ones are meant, as in "
            f"'{folder / _pattern(most)}'"
        )
    return _in_order(str(folder), [str(folder / name) for name in names], key)


def _matching(pattern: str, key: str | None) -> Members:
    """The files that a pattern matches."""
    found = [path for path in glob.glob(pattern, recursive=True) if not path.endswith(".run")]
    if not found:
        raise InputError(f"{pattern}: no file has such a name")
    return _in_order(pattern, found, key)


def _in_order(asked: str, paths: list[str], key: str | None) -> Members:
    paths = sorted(paths, key=natural)
    _refuse_gaps(paths)
    return Members(tuple((path, key) for path in paths), True, (asked,))


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """What puts names in the order in which people count: numbers in them by their value."""
    words = re.split(r"(\d+)", name)
    numbers = [*map(int, words[1::2]), -1]
    return list(zip(words[::2], numbers, strict=True)), name


def _refuse_gaps(paths: list[str]) -> None:
    """Raise InputError if names tell how many parts there are, and one is not there."""
    told: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if found := PART_OF.search(name):
            series = os.path.join(folder, name[: found.start()])
            told.setdefault((series, int(found[2])), set()).add(int(found[1]))
    for (series, count), numbers in told.items():
        first = 0 if 0 in numbers else 1
        missing = next(number for number in itertools.count(first) if number not in numbers)
        if missing < first + count:
            raise InputError(
                f"{paths[0]}: its name tells of {count:,} parts, and part {missing} is not there ({series}...); "
                "fetch it, or name the files one by one to leave it out"
            )


def _kind(name: str) -> str:
    """What is common to the names of parts."""
    return re.sub(r"\d+", "#", HASH.sub("-#", name))


def _pattern(names: list[str]) -> str:
    """A pattern that matches files of one kind of names."""
    return names[0] if len(names) == 1 else re.sub(r"\d+", "*", HASH.sub("-*", names[0]))
