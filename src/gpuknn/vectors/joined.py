"""Rows of many files that are one database, one file after another."""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock, Thread, current_thread
from weakref import WeakKeyDictionary

import numpy as np

from gpuknn.errors import InputError
from gpuknn.storage.location import Stored, is_url, listing
from gpuknn.vectors.ids import RowIds, id_advice
from gpuknn.vectors.names import Members, absolute_name, gap_among, joined_members, shown
from gpuknn.vectors.vectors import Vectors


class Open:
    """The files that threads read in, each with what its reader keeps decoded.

    Of files that nobody reads any more, as many stay open as there are threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: OrderedDict[int, Vectors] = OrderedDict()
        self._read_in: WeakKeyDictionary[Thread, int] = WeakKeyDictionary()
        """Where each thread reads; a thread that has ended is forgotten."""

    def take(self, number: int, part: Vectors) -> Vectors:
        """The file of that number, for this thread; as many are kept beside those in use as there are threads."""
        with self._lock:
            self._read_in[current_thread()] = number
            if number not in self._files:
                self._files[number] = copy(part)
            self._files.move_to_end(number)
            used = set(self._read_in.values())
            left = [other for other in self._files if other not in used]
            for other in left[: max(0, len(left) - len(self._read_in))]:
                del self._files[other]
            return self._files[number]


@dataclass(frozen=True)
class JoinedVectors(Vectors):
    """The rows of several files, in their order."""

    names: tuple[str, ...]
    """As they were given; each may stand for many files."""
    members: Members
    """What they stood for when they were opened."""
    parts: tuple[Vectors, ...]
    """The rows of each file."""
    _open: Open = field(default_factory=Open, init=False, repr=False, compare=False)

    @property
    def files(self) -> tuple[Vectors, ...]:
        """The rows of each file."""
        return self.parts

    @cached_property
    def file_edges(self) -> tuple[int, ...]:
        """The first rows of the files, and the number of rows."""
        return tuple(accumulate(map(len, self.parts), initial=0))

    @property
    def bits(self) -> int | None:
        """Those of each file."""
        return self.parts[0].bits

    @property
    def name(self) -> str:
        """The names without their folders."""
        return shown([Path(name).name for name in self.names])

    @property
    def where(self) -> str:
        """The names, for messages."""
        return shown(self.names)

    @property
    def asked(self) -> str:
        """The name that opens the same rows again."""
        return self.path

    @property
    def sources(self) -> tuple[str, ...]:
        """Folders, patterns and lists that were named, and all files."""
        return (*self.members.asked, *(path for path, _ in self.members.files))

    @property
    def files_told(self) -> str:
        """How many files there are, in which order, and the names of some."""
        order = "by the numbers in their names" if self.members.by_number else "in the order given"
        names = [Path(path).name for path, _ in self.members.files]
        lacks = gap_among(names) if self.members.by_number else ""
        return f"{len(names):,} {'files' if len(names) > 1 else 'file'} {order}: {shown(names)}{lacks}"

    def stored(self) -> list[Stored]:
        """All files.

        Raises InputError if one cannot be looked at, or the names stand for other files than when these were opened.
        """
        now = joined_members(self.names)
        before, after = ([(os.path.basename(path), key) for path, key in each.files] for each in (self.members, now))
        if before != after:
            others = shown(sorted({name for name, _ in set(before) ^ set(after)})) or "their order is another"
            raise InputError(f"{self.where}: stands for other files than when it was opened ({others})")
        places = ((f"{number} {os.path.basename(path)}", path) for number, (path, _) in enumerate(now.files))
        return [replace(stored, name=f"{place} {stored.name}") for place, path in places for stored in listing(path)]

    def absolute(self) -> "JoinedVectors":
        """The same rows, for a process with another working folder."""
        names = tuple(map(absolute_name, self.names))
        parts = tuple(part.absolute() for part in self.parts)
        return replace(self, path=",".join(names), names=names, parts=parts)

    def locate(self, row: int) -> tuple[str, int]:
        """The file that holds a row, and the row's number in it."""
        number = self._number_of_file(row)
        return self.parts[number].locate(row - self.file_edges[number])

    def held_bytes(self, readers: int) -> int:
        """Twice those of the file that takes most: some rows of the file before may still be held."""
        most = max(part.held_bytes(readers) for part in self.parts)
        return most if len(self.parts) == 1 else 2 * most

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` with the rows from `first` on, from as many files as they are in."""
        end = first + len(out)
        if not 0 <= first <= end <= len(self):
            raise IndexError(f"rows {first} to {end} of {len(self)}")
        here = first
        while here < end:
            number = self._number_of_file(here)
            stop = min(end, self.file_edges[number + 1])
            part = self._open.take(number, self.parts[number])
            part.read(here - self.file_edges[number], out[here - first : stop - first])
            here = stop

    def _number_of_file(self, row: int) -> int:
        return bisect_right(self.file_edges, row) - 1


@dataclass(frozen=True)
class JoinedIds(RowIds):
    """The ids that several files give their rows, one file after another."""

    parts: tuple[RowIds | None, ...]
    names: tuple[str, ...]
    """Of the files, for messages."""

    def read(self) -> Iterator[np.ndarray]:
        """Those of each file; raises InputError if one gives none, as others do."""
        silent = [name for part, name in zip(self.parts, self.names, strict=True) if part is None]
        if silent:
            telling = next(part.where for part in self.parts if part is not None)
            raise InputError(f"{silent[0]}: gives its rows no ids, and {telling} does; {id_advice()}")
        for part in self.parts:
            if part is not None:
                yield from part.batches()


def join(names: Sequence[str], members: Members, parts: Sequence[Vectors]) -> JoinedVectors:
    """One database of files that were opened; raises InputError if they differ in components or type, or one is twice.

    `names`: as they were given.  `members`: what they stand for.
    """
    first = parts[0]
    for part in parts:
        ours, theirs = _kind(first), _kind(part)
        if ours != theirs:
            raise InputError(
                f"{part.where}: holds rows of {theirs}, and {first.where} rows of {ours}; files that are one database "
                "hold rows of one kind"
            )
    seen: dict[tuple[object, str], str] = {}
    for part in parts:
        place = part.path if is_url(part.path) else _same_file(part.path)
        array = place, "/".join(name for name in (part.key or "").split("/") if name not in ("", "."))
        if array in seen:
            raise InputError(f"{part.where}: is named twice: {seen[array]} is the same file and array")
        seen[array] = part.where
    n = sum(map(len, parts))
    keys = {part.key for part in parts}
    key = keys.pop() if len(keys) == 1 else None
    path, ids = ",".join(names), None
    if any(part.ids for part in parts):
        where = next(part.ids.where for part in parts if part.ids)
        also = f" and {len(parts) - 1:,} more" if len(parts) > 1 else ""
        told = tuple(part.where for part in parts)
        ids = JoinedIds(f"{where}{also}", range(n), n, tuple(part.ids for part in parts), told)
    shape = n, first.shape[1]
    return JoinedVectors(path, key, shape, first.dtype, tuple(names), members, tuple(parts), ids=ids)


def _same_file(path: str) -> tuple[int, int]:
    """Equal for all names and links of a file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _kind(rows: Vectors) -> str:
    return f"{rows.bits} booleans" if rows.bits else f"{rows.shape[1]:,} {rows.dtype}"
