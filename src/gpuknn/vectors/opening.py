"""Which reader opens a file, a folder or a URL."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, get_args

from gpuknn.errors import InputError, check_known
from gpuknn.storage.location import is_folder, is_url, split_key
from gpuknn.vectors.in_memory import type_of
from gpuknn.vectors.joined import join
from gpuknn.vectors.names import Members, joined_members, members_of, split_names
from gpuknn.vectors.vectors import Vectors
from gpuknn.vectors.written import Missing


def open_vectors(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    key: str | None = None,
    missing: Missing = "refuse",
) -> Vectors:
    """Open a database or a set of queries; little but its header is read.

    Parameters
    ----------
    path
        An HDF5 file (.h5, .hdf5, .jld2), an .npy file, a Parquet file, a file of raw vectors (.fbin, .f16bin, .u8bin,
        .i8bin, .fvecs, .bvecs; by suffix), an .npz archive, or a Zarr array or group (v2 or v3), which may also be
        given by the URL of an object store (s3://bucket/prefix).  `FILE:KEY` names an array within a file.

        Many files are one database: a list of paths, names with commas between them, a folder, a pattern
        ("parts/*.npy") or a list file (.txt, a name on each line).  Files of a folder or a pattern come in the order of
        the numbers in their names, `part2` before `part10`; others come in the order given.
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

    Examples
    --------
    >>> import gpuknn
    >>> rows = gpuknn.open_vectors(gpuknn.subset_files("sample")[0])
    >>> rows.shape, rows.dtype, rows.key
    ((10000, 384), dtype('float16'), 'emb')
    >>> rows[10:13].shape  # which reads these rows alone
    (3, 384)
    """
    check_known("missing", missing, get_args(Missing))
    if are_paths(path):
        names = [one for name in path for one in split_names(os.fspath(name))]
        return _joined(names, joined_members(names), key, missing)
    if isinstance(path, list | tuple) and not path:
        raise InputError("the list of files is empty")
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"open_vectors takes a path or a URL, and this is {type_of(path)}; gpuknn.exact_knn takes arrays as they "
            "are"
        )
    if members := members_of(os.fspath(path)):
        return _joined(split_names(os.fspath(path)), members, key, missing)
    place = path if isinstance(path, str) else Path(path)
    if key is None:
        place, key = split_key(place)
    return replace(_opened(place, key, missing), missing=missing)


def are_paths(rows: Any) -> TypeGuard[Sequence[str | os.PathLike[str]]]:
    """Whether this is a list of paths."""
    return isinstance(rows, list | tuple) and len(rows) > 0 and all(isinstance(x, str | os.PathLike) for x in rows)


def _joined(names: list[str], members: Members, key: str | None, missing: Missing) -> Vectors:
    """The rows of all files that the names stand for."""
    parts = []
    for path, own in members.files:
        place = path if is_url(path) else Path(path)
        parts.append(replace(_opened(place, own or key, missing), missing=missing))
    named = [name if key is None or split_key(name)[1] else f"{name}:{key}" for name in names]
    return replace(join(named, members, parts), missing=missing)


def _opened(path: str | Path, key: str | None, missing: Missing) -> Vectors:
    """What the reader for it makes of a path, without a key in it, or a URL."""
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
    if head.startswith(b"PK\x03\x04"):
        from gpuknn.vectors.npz import open_npz

        return open_npz
    if head.startswith(b"PAR1"):
        from gpuknn.vectors.parquet import open_parquet

        return open_parquet
    from gpuknn.vectors.hdf5 import open_hdf5

    return open_hdf5
