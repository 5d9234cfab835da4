"""Rows of vectors, wherever they are: the base class, arrays in memory, and `open_vectors`."""

import math
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gpuknn.errors import InputError
from gpuknn.storage.location import absolute, is_url, split_key
from gpuknn.vectors.ids import RowIds
from gpuknn.vectors.written import Missing

ROW_TYPES = ("float16", "float32", "float64", "uint8", "int8", "uint64")
LARGEST_ROW, LARGEST = 2**31 - 1, 2**62
"""Bytes of a row, and of all rows: NumPy's records, and its arrays, cannot be larger."""
KNOWN_NAMES = ("emb", "hamming", "pca32", "pca96", "train", "test", "vector", "embedding")
"""Of arrays and columns of vectors."""


@dataclass(frozen=True)
class Vectors(ABC):
    """A database or a set of queries: n rows of d components."""

    path: str
    """Where the rows are, for messages."""
    key: str | None
    """The array within the file, where it has names."""
    shape: tuple[int, int]
    """(n, d); for sketches d counts uint64 words."""
    dtype: np.dtype
    ids: RowIds | None = field(default=None, kw_only=True)
    """What the file calls its rows, if it has ids; they may be the rows' numbers (`ids.own_ids`)."""

    @property
    def bits(self) -> int | None:
        """Bits of a sketch, if the file tells them; words may be filled up."""
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

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The rows of a slice without a step, as a new array (m, d)."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise InputError(f"{self.where}: rows are read in order; take a slice without a step")
        out = np.empty((max(0, stop - start), self.shape[1]), self.dtype)
        self.read(start, out)
        return out

    @property
    def where(self) -> str:
        """Path and key, for messages."""
        return f"{self.path}:{self.key}" if self.key else self.path

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


def open_vectors(path: str | Path, key: str | None = None, missing: Missing = "refuse") -> Vectors:
    """Open a database or a set of queries; little but its header is read.

    Parameters
    ----------
    path
        An HDF5 file (.h5, .hdf5, .jld2), an .npy file, a Parquet file, a file of raw vectors (.fbin, .f16bin, .u8bin,
        .i8bin, .fvecs, .bvecs; by suffix), or a Zarr array or group (v2 or v3), which may also be given by the URL of
        an object store (s3://bucket/prefix).  `FILE:KEY` names an array within a file.
    key
        The array within an HDF5 file or Zarr group, or the column, if `path` does not name it.  Without it, the only
        array of vectors there is taken, or the only one of the known names (emb, hamming, pca32, pca96, train, test,
        vector, embedding).
    missing
        What becomes of rows that nobody wrote (chunks that were never allocated, holes in a file): they are refused,
        or read as `zeros`.

    Returns
    -------
    Vectors
        Rows of float16, float32, float64, uint8, int8 or uint64, shape (n, d).  A matrix of booleans becomes sketches:
        64 components in a uint64, the first in the lowest bit.

    Raises
    ------
    InputError
        The file is missing, damaged, of another format, ambiguous, holds something else, or was written in part.
    """
    if key is None:
        path, key = split_key(path)
    if is_url(path) or is_folder(Path(path)):
        from gpuknn.vectors.zarr import open_zarr

        return open_zarr(path, key, missing)
    file = Path(path)
    try:
        with open(file, "rb") as opened:
            head = opened.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return _reader(file, head)(file, key, missing)


def _reader(path: Path, head: bytes) -> Callable[[Path, str | None, Missing], Vectors]:
    """What opens a file of this name that begins so."""
    from gpuknn.vectors import fbin, vecs

    suffix = path.suffix.lower()
    if suffix in fbin.COMPONENTS:
        return fbin.open_fbin
    if suffix in vecs.COMPONENTS:
        return vecs.open_vecs
    if suffix in (".ivecs", ".ibin"):
        raise InputError(f"{path}: {suffix} files hold ids (a gold standard), not vectors")
    if head.startswith(b"\x93NUMPY"):
        from gpuknn.vectors.npy import open_npy

        return open_npy
    if head.startswith(b"PAR1"):
        from gpuknn.vectors.parquet import open_parquet

        return open_parquet
    from gpuknn.vectors.hdf5 import open_hdf5

    return open_hdf5


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; raises InputError where there is nothing, or nothing that may be looked at."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise InputError(f"{path}: is neither a file nor a folder, but a pipe or device; copy it to a file")
    return stat.S_ISDIR(mode)


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
