"""What a file calls its rows, if it gives them ids: Parquet's column `id`, an array `ids` beside the rows."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gpuknn.errors import InputError, option

ID_NAMES = ("ids", "id")
"""Of arrays and columns that hold the ids of rows."""
QUERY_ID_NAMES = ("query_ids", "query_id")
"""Of arrays that hold the ids of queries, in a file that holds rows, too."""
QUERY_ARRAYS = ("test", "queries")
"""Names of arrays of queries in such files."""
ROW_ARRAYS = ("train", "emb")
"""Names of arrays of rows in such files."""
IDS_AT_ONCE = 2**20
LOOKED_AT = 2**23
"""Ids among which equal ones are looked for at once: 64 MiB, however many there are."""


@dataclass(frozen=True)
class RowIds(ABC):
    """The ids that a file gives to its rows, read some at a time."""

    where: str
    """Of the column or array, for messages."""
    rows: range
    """The rows of the file that are meant."""
    count: int
    """All rows of the file."""

    @abstractmethod
    def read(self) -> Iterator[Any]:
        """The ids of all rows of the file, in order, as NumPy arrays."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def highest(self) -> int:
        """The highest id."""
        return max(int(batch.max()) for batch in self.batches())

    def batches(self) -> Iterator[np.ndarray]:
        """(m,) int64: the ids of the rows that are meant, in order.  Raises InputError if one is no whole number."""
        first = 0
        for ids in self.read():
            part = ids[max(0, self.rows.start - first) : max(0, self.rows.stop - first)]
            first += len(ids)
            if len(part):
                yield self._whole(part, first - len(ids))
            if first >= self.rows.stop:
                return

    def all(self) -> np.ndarray:
        """(n,) int64: the ids of all rows that are meant."""
        return np.concatenate(list(self.batches()))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The ids of row numbers, of any shape, as int64; -1 stays.  Takes one pass over all ids."""
        flat = rows.reshape(-1)
        order = np.argsort(flat, kind="stable")
        found, ordered, first = np.full(flat.shape, -1), flat[order], 0
        for ids in self.batches():
            start, stop = np.searchsorted(ordered, (first, first + len(ids)))
            found[order[start:stop]] = ids[ordered[start:stop] - first]
            first += len(ids)
        return found.reshape(rows.shape)

    def _whole(self, ids: np.ndarray, first: int) -> np.ndarray:
        if ids.dtype.kind not in "iu":
            kind = "text" if ids.dtype.kind in "OSUT" else ids.dtype.name
            raise InputError(f"{self.where}: its ids are {kind} and not whole numbers; {id_advice()}")
        if ids.dtype == np.uint64 and len(ids) and ids.max() > np.iinfo(np.int64).max:
            row = first + int(ids.argmax())
            raise InputError(f"{self.where}: row {row} has the id {ids.max()}, beyond 2^63 - 1; {id_advice()}")
        return ids.astype(np.int64)


def own_ids(ids: RowIds | None) -> RowIds | None:
    """The ids, if they are not the rows' numbers from 0; None if they are, or there are none.

    Raises InputError if one is negative or stands twice: an answer could not say which row it means.
    """
    if ids is None or _are_numbers(ids):
        return None
    for part in range(-(-len(ids) // LOOKED_AT)):
        _refuse_twice(ids, part, -(-len(ids) // LOOKED_AT))
    return ids


def choose_ids(key: str, there: Container[str]) -> str | None:
    """The array beside the one called `key` that holds the ids of its rows; None if there is none.

    `there` contains the names of all arrays.  If rows and queries lie side by side, `ids` are those of the rows.
    """
    folder, slash, name = key.strip("/").rpartition("/")
    beside, names = f"{folder}{slash}", list(ID_NAMES)
    if name in QUERY_ARRAYS:
        both = any(f"{beside}{rows}" in there for rows in ROW_ARRAYS)
        names = [*QUERY_ID_NAMES, *([] if both else ID_NAMES)]
    return next((f"{beside}{found}" for found in names if f"{beside}{found}" in there), None)


def ids_beside(key: str) -> str:
    """The path at which the ids of the rows at the path `key` are written."""
    folder, slash, name = key.strip("/").rpartition("/")
    return f"{folder}{slash}{(QUERY_ID_NAMES if name in QUERY_ARRAYS else ID_NAMES)[0]}"


def id_advice() -> str:
    """What to do about ids that cannot be kept."""
    return f"{option('ignore_ids', True)} numbers the rows from 0 instead"


def rows_of(ids: RowIds | None, rows: range) -> RowIds | None:
    """The ids of some of the rows."""
    return ids and replace(ids, rows=ids.rows[rows.start : rows.stop])


def chunks(ids: RowIds | None, rows: int, length: int) -> Iterator[np.ndarray]:
    """(at most `length`,) int64: the ids of rows that follow one another, or their numbers if they have no ids.

    Each array is valid until the next is taken.
    """
    if ids is None:
        return (np.arange(first, min(first + length, rows)) for first in range(0, rows, length))
    return regrouped(ids.batches(), length, (rows,), np.dtype(np.int64))


def regrouped(
    blocks: Iterator[np.ndarray], length: int, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """What all blocks hold, `length` rows together, of `shape` in all; each is valid until the next is taken."""
    buffer, filled = np.empty((min(length, shape[0]), *shape[1:]), dtype), 0
    for block in blocks:
        while len(block):
            part = block[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            filled, block = filled + len(part), block[len(part) :]
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def first_other(a: RowIds | None, b: RowIds | None, rows: int) -> tuple[int, int, int] | None:
    """The first row that has other ids in two files, and the two ids; None if all are equal."""
    first = 0
    for x, y in zip(chunks(a, rows, IDS_AT_ONCE), chunks(b, rows, IDS_AT_ONCE), strict=True):
        differ = np.flatnonzero(x != y)
        if len(differ):
            return first + int(differ[0]), int(x[differ[0]]), int(y[differ[0]])
        first += len(x)
    return None


def _are_numbers(ids: RowIds) -> bool:
    first, equal = ids.rows.start, ids.rows.start == 0
    for batch in ids.batches():
        if len(batch) and batch.min() < 0:
            at = int(np.argmax(batch < 0))
            raise InputError(f"{ids.where}: row {first + at} (counted from 0) has the id {batch[at]}; {id_advice()}")
        equal = equal and np.array_equal(batch, np.arange(first, first + len(batch)))
        first += len(batch)
    if first - ids.rows.start != len(ids):
        raise InputError(f"{ids.where}: holds {first:,} ids for {ids.rows.stop:,} rows; {id_advice()}")
    return equal


def _refuse_twice(ids: RowIds, part: int, parts: int) -> None:
    """Raise InputError if two of the ids that fall into a part, by their remainder, are equal."""
    found = np.sort(np.concatenate([batch[batch % parts == part] for batch in ids.batches()]))
    twice = np.flatnonzero(found[1:] == found[:-1])
    if len(twice):
        raise InputError(f"{ids.where}: the id {found[twice[0]]} belongs to more than one row; {id_advice()}")
