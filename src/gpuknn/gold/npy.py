"""Results in NumPy's files, as scripts keep what FAISS returns: ids counted from 0, -1 if there is none.

An .npy file holds the ids.  An .npz file holds them under one of the names below, and distances under another.
"""

from pathlib import Path

import numpy as np

from gpuknn.errors import InputError, in_our_words
from gpuknn.gold.gold import Gold, from_file, refuse_other_count
from gpuknn.vectors.npy import read_header
from gpuknn.vectors.written import AGAIN, check_holes

IDS = {"knns": 1, "neighbors": 0, "ids": 0, "indices": 0, "labels": 0, "I": 0}
"""Names of ids, and the number of the first row."""
DISTS = ("dists", "distances", "D")


def read_npy(path: Path) -> Gold:
    """Read an .npy file; raises InputError if it holds anything but a matrix of ids."""
    ids = _load(path)
    if not isinstance(ids, np.ndarray):
        raise InputError(f"{path}: is no .npy file, but one of several arrays; name it .npz")
    checked = _ids(ids, path)
    if ids.size:
        check_holes(str(path), str(path), range(len(ids)), read_header(path)[3], ids.nbytes // len(ids), AGAIN)
    return from_file(checked, None, 0, are_rows=False)


def read_npz(path: Path) -> Gold:
    """Read an .npz file; raises InputError if it holds no ids, or distances of another shape."""
    arrays = _load(path)
    if isinstance(arrays, np.ndarray):
        raise InputError(f"{path}: is no .npz file, but one array; name it .npy")
    name = next((name for name in IDS if name in arrays), None)
    if name is None:
        raise InputError(f"{path}: holds no ids; they are looked for under the names {', '.join(IDS)}")
    ids = _ids(arrays[name], path)
    dists = next((arrays[name] for name in DISTS if name in arrays), None)
    if dists is not None and (dists.shape != ids.shape or dists.dtype.kind not in "fiu"):
        raise InputError(f"{path}: has distances {dists.dtype} {dists.shape}; the ids have the shape {ids.shape}")
    refuse_other_count(ids, IDS[name], f"{path}:{name}")
    published = IDS[name] == 1  # as SISAP's files count; the other names are FAISS's
    return from_file(ids, dists, IDS[name], are_rows=published, products_negated=published)


def is_ids_npy(path: Path) -> bool:
    """Whether an .npy file holds ids, not vectors."""
    try:
        dtype = np.load(path, mmap_mode="r", allow_pickle=False).dtype
    except Exception:  # whoever reads it as vectors will say what is wrong
        return False
    return bool(dtype.kind in "iu" and dtype.itemsize >= 4 and dtype.newbyteorder("=") != np.uint64)  # of sketches


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """One array, or those of several that have one of the names."""
    with in_our_words(f"{path}: is not a readable file of NumPy's"):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            arrays = {name: found[name] for name in (*IDS, *DISTS) if name in found.files}
            return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _ids(ids: np.ndarray, path: Path) -> np.ndarray:
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"{path}: holds {ids.dtype} {ids.shape}; a result is a matrix of ids, (queries, neighbours)")
    return ids
