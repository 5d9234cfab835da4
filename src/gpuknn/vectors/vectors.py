"""Rows of vectors, wherever they are: what every reader offers, and arrays in memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from gpuknn.errors import InputError
from gpuknn.storage.location import Stored, absolute, listing
from gpuknn.vectors.ids import RowIds
from gpuknn.vectors.written import Missing

ROW_TYPES = ("float16", "float32", "float64", "uint8", "int8", "uint64")
LARGEST_ROW, LARGEST = 2**31 - 1, 2**62
"""Bytes of a row, and of all rows: NumPy's records, and its arrays, cannot be larger."""
KNOWN_NAMES = ("emb", "hamming", "pca32", "pca96", "train", "test", "vector", "embedding")
"""Of arrays and columns of vectors."""
ITERATED_BYTES = 2**20
"""Of rows that are read at once for a program that takes one after another."""


@dataclass(frozen=True)
class Vectors(ABC):
    """A database or a set of queries: n rows of d components, read as they are needed.

    `open_vectors` makes one of a file.

    >>> import gpuknn
    >>> rows = gpuknn.open_vectors(gpuknn.subset_files("sample")[1])
    >>> len(rows), rows.shape, rows[:2].dtype
    (200, (200, 384), dtype('float32'))
    """

    path: str
    """Where the rows are, for messages."""
    key: str | None
    """The array within the file, where it has names."""
    shape: tuple[int, int]
    """(n, d); for sketches d counts uint64 words."""
    dtype: np.dtype
    ids: RowIds | None = field(default=None, kw_only=True)
    """What the file calls its rows, if it has ids; they may be the rows' numbers (`ids.own_ids`)."""
    missing: Missing = field(default="refuse", kw_only=True)
    """What became of rows that nobody wrote when these were opened."""

    @property
    def in_files(self) -> bool:
        """Whether `path` and `key` tell another process, or a later one, where the rows are."""
        return True

    @property
    def files(self) -> "tuple[Vectors, ...]":
        """The rows of each file, if there are several."""
        return (self,)

    @property
    def file_edges(self) -> tuple[int, ...]:
        """The first rows of the files, and the number of rows."""
        return 0, len(self)

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name

    @property
    def sources(self) -> tuple[str, ...]:
        """What is read, and must not be written to: paths, URLs, patterns."""
        return (self.path,)

    @property
    def files_told(self) -> str | None:
        """Which files there are and in which order, in words; None if one file, store or URL was named."""
        return None

    def stored(self) -> list[Stored]:
        """The files as they are now.  Raises as `listing` does."""
        return listing(self.path)

    def locate(self, row: int) -> tuple[str, int]:
        """Which file holds a row, for messages, and the row's number in it."""
        return self.where, row

    @property
    def bits(self) -> int | None:
        """Bits of a sketch that is kept as booleans or bytes; its words may be filled up.  None of other rows."""
        return None

    @property
    def gpu(self) -> int | None:
        """The number of the GPU that holds the rows; None if none does."""
        return None

    @abstractmethod
    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (m, d), of this dtype and contiguous, with the rows from `first` on.

        Raises InputError where the file has become shorter than it said.
        """

    def absolute(self) -> "Vectors":
        """The same rows, for a process with another working folder."""
        return replace(self, path=absolute(self.path))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | SupportsIndex) -> np.ndarray:
        """The rows of a slice without a step, as a new array (m, d); or one row (d,), by its number.

        Raises IndexError if there is no row of that number, InputError if `rows` is something else.
        """
        if not isinstance(rows, slice):
            number = self._number(rows)
            row: np.ndarray = self[number : number + 1][0]
            return row
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise InputError(f"{self.where}: rows are read in order; take a slice without a step")
        out = np.empty((max(0, stop - start), self.shape[1]), self.dtype)
        self.read(start, out)
        return out

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each row (d,), in order."""
        length = max(1, ITERATED_BYTES * len(self) // self.nbytes)
        for first in range(0, len(self), length):
            yield from self[first : first + length]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All rows (n, d), read anew."""
        if copy is False:
            raise ValueError("the rows are read into a new array: there is none without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or another process, needs: nothing that is open or decoded."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def __setstate__(self, state: dict[str, Any]) -> None:
        anew = {f.name: f.default_factory() for f in fields(self) if f.default_factory is not MISSING and not f.init}
        self.__dict__.update(state | anew)

    def _number(self, row: SupportsIndex) -> int:
        """The number of a row that may be counted from the end."""
        try:
            if isinstance(row, bool):
                raise TypeError
            number = index(row)
        except TypeError as error:
            raise InputError(
                f"{self.where}: rows are read by a number or a slice, rows[3] or rows[10:20]; for other indices read "
                "all rows before, np.asarray(rows)"
            ) from error
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.where}: there is no row {number}, there are {len(self)} rows")
        return number % len(self)

    @property
    def where(self) -> str:
        """Path and key, for messages."""
        return f"{self.path}:{self.key}" if self.key else self.path

    @property
    def asked(self) -> str:
        """The name that opens the same rows again."""
        return self.where

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def held_bytes(self, readers: int) -> int:
        """Bytes that are held at most, beside the callers' buffers, while so many threads read."""
        return 0


@dataclass(frozen=True)
class ArrayVectors(Vectors):
    """Rows of an array in memory."""

    array: np.ndarray
    in_files = False

    @classmethod
    def of(cls, array: np.ndarray, name: str) -> "ArrayVectors":
        """Wrap `array` (n, d), called `name` in messages; raises InputError where it is not a set of vectors."""
        array = np.asarray(array)
        check_layout(array.shape, array.dtype, name)
        native = array.dtype.newbyteorder("=")
        return cls(name, None, (array.shape[0], array.shape[1]), native, array)

    def read(self, first: int, out: np.ndarray) -> None:
        """Copy the rows from `first` on into `out`."""
        out[...] = self.array[first : first + len(out)]


def check_layout(shape: Sequence[int], dtype: np.dtype, where: str) -> None:
    """Raise InputError where an array of this shape and dtype is not a set of vectors."""
    if dtype.kind not in "fiu" or dtype.newbyteorder("=").name not in ROW_TYPES:
        raise InputError(f"{where}: holds {dtype.name}; vectors are {', '.join(ROW_TYPES)}")
    if len(shape) != 2:
        raise InputError(f"{where}: has {len(shape)} dimension(s); vectors are two-dimensional, (rows, components)")
    if min(shape) < 1:
        raise InputError(f"{where}: is empty, shape {tuple(shape)}")
    if shape[1] * dtype.itemsize > LARGEST_ROW or math.prod(shape) * dtype.itemsize > LARGEST:
        raise InputError(f"{where}: has the shape {tuple(shape)}, more than can be read; is it damaged?")


def refuse_key(path: Path, key: str | None) -> None:
    """Raise InputError where there is a key to a file that has no names in it."""
    if key is not None:
        raise InputError(f"{path}: a file of this kind holds one array without a name; leave out the key {key!r}")


def choose_key(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]], path: str | Path) -> str:
    """The one array of vectors among the named ones; raises InputError if there is none or more than one."""
    fitting = [
        name
        for name, (shape, dtype) in arrays.items()
        if len(shape) == 2
        and (dtype.name in ROW_TYPES or dtype == np.bool_)
        and name.rpartition("/")[2] not in ("dists", "distances")
    ]
    known = [name for name in fitting if name in KNOWN_NAMES]
    for names in (fitting, known):
        if len(names) == 1:
            return names[0]
    if fitting:
        listed = ", ".join(f"{path}:{name}" for name in fitting)
        raise InputError(f"{path}: holds several arrays of vectors; name one of them: {listed}")
    if len(arrays) == 1:
        return next(iter(arrays))  # the caller's checks then say what is wrong with it
    listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in arrays.items()) or "nothing"
    raise InputError(f"{path}: holds no array of vectors, but {listed}")
