"""Answers as Python programs hold them: taken for a gold standard, and written as one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.engine.neighbors import Neighbors
from gpuknn.errors import InputError, one_line
from gpuknn.gold.certificate import said_of_certificate
from gpuknn.gold.distances import BITS, as_distance, check_said, described, told
from gpuknn.gold.formats import for_target, gold_format, holds_gold, read_gold, save_gold
from gpuknn.gold.gold import Gold, from_file
from gpuknn.gold.hdf5 import refuse_knns
from gpuknn.gold.writer import Attributes
from gpuknn.storage.destination import check_destination
from gpuknn.vectors import Vectors

Answer = Any
"""What is taken for an answer: a path, `Gold`, `Neighbors`, an array of ids, or ids and distances (`as_gold`)."""
ID_TYPES = ("int32", "int64", "uint32")
"""Of arrays that are ids and no vectors."""


def as_gold(answer: Answer, name: str) -> Gold:
    """What somebody has found, from wherever it is.

    `answer`: a file's path (`FILE:GROUP`), a `Gold`, a `Neighbors`, an array (nq, k) of ids, or a pair of ids and
    distances (nq, k).  An array is whatever NumPy takes or speaks DLPack.  Its ids are row numbers, which count from 0,
    and -1 is no id; `Gold(I, own_ids=I)` are ids that the database's file gives.  Distances that descend are taken for
    similarities.  `name`: what messages call an array.  Raises InputError if it is none of these.
    """
    if isinstance(answer, Gold | Neighbors):
        _refuse_low(answer.ids, name)
    if isinstance(answer, Gold):
        return answer if answer.dists is None or answer.distance != "dot" else as_distance(answer, "ip", name)
    if isinstance(answer, Neighbors):
        bits = {} if answer.bits is None else {BITS: answer.bits}
        return Gold(answer.ids, answer.dists, answer.metric, answer.own_ids, answer.query_ids, said=bits)
    if isinstance(answer, str | os.PathLike):
        return read_gold(_path(answer))
    if not _is_pair(answer):
        return from_file(_ids(_array(answer, name), name), None, 0)
    ids, dists = (_array(part, name) for part in answer)
    _refuse_swapped(ids, dists, name)
    ids = _ids(ids, name)
    if dists.shape != ids.shape or dists.dtype.kind not in "fiu":
        raise InputError(f"{name}: has distances {dists.dtype} {dists.shape}; the ids have the shape {ids.shape}")
    return from_file(ids, dists, 0, products_negated=None)


def named(answer: Answer, name: str) -> str:
    """What messages call an answer: its path, or `name` if it has none."""
    return str(answer) if isinstance(answer, str | os.PathLike) else name


def holds_answer(what: Any, name: str, beside_rows: bool = False) -> bool:
    """Whether something holds an answer, and not vectors; `beside_rows`: even if it holds what could be rows, too."""
    if isinstance(what, str | os.PathLike):
        return holds_gold(_path(what), beside_rows)
    if isinstance(what, Vectors):
        return False
    if isinstance(what, Gold | Neighbors) or _is_pair(what):
        return True
    dtype = what.dtype if hasattr(what, "dtype") else _array(what, name).dtype
    return getattr(dtype, "name", str(dtype)).removeprefix("torch.") in ID_TYPES


def write_gold(path: str | Path, answer: Answer, *, attributes: Attributes | None = None, force: bool = False) -> None:
    """Write an answer to a gold-standard file, whole or not at all.

    Parameters
    ----------
    path
        The file; its suffix tells the format: .h5, .ibin or .bin, .ivecs, .parquet.
    answer
        What `exact_knn` or `read_gold` gives, a `Gold`, or ids (nq, k) from 0 and distances (nq, k) as a pair.  Of the
        first two an HDF5 file keeps the metric, the certificate, and the ids that files give to rows and queries; of
        what `read_gold` gives also what else the file says of itself.
    attributes
        Root attributes to add, if the format has some: text and numbers.  `metric` (cosine, ip, l2, hamming) tells
        which distances these are; `distance` tells it, too, and knows the root of l2 (euclidean), the share of bits
        (mean-hamming), the angle of cosine (angle) and inner products, the largest first (dot).  Under hamming `bits`
        tells how many bits a sketch has.
    force
        Replace the file, if it exists already.

    Raises
    ------
    InputError
        The format cannot hold the answer, the attributes tell another distance than the answer does, nothing tells
        whether a pair of arrays holds distances or similarities, the file exists already, or none can be written there.

    Examples
    --------
    >>> import gpuknn, numpy as np
    >>> found = gpuknn.exact_knn(np.eye(3), k=1, metric="l2")
    >>> gpuknn.write_gold("gold.h5", found)
    >>> gold = gpuknn.read_gold("gold.h5")
    >>> gold
    Gold(3 queries x 1, l2, float32 distances)
    >>> gold.said["certificate"].split(";")[1]
    ' every pair within the proven error of the answer was refined'
    >>> gpuknn.write_gold("other.h5", ([[0, 2]], [[0.25, 1.5]]), attributes={"metric": "l2", "algo": "HNSW"})
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"the path is {type(path).__name__}; it stands first here: write_gold(path, answer)")
    said, where = _plain_only(attributes), named(answer, "the answer")
    name, gold = gold_format(path), as_gold(answer, where)
    check_destination(str(path), [], replace=force, stores=False)
    distance = check_said(said)
    kept = {key: value for key, value in gold.said.items() if isinstance(value, str | int | float)}
    if distance is not None and gold.distance is None:
        kept.pop("metric", None)  # of which nobody knows which distance was meant
    if distance is not None and gold.dists is not None:
        if gold.distance not in (None, distance) and (gold.distance, distance) != ("ip", "dot"):
            key = "distance" if "distance" in said else "metric"
            raise InputError(
                f"the attribute {key} is {said[key]}, but the distances are {described(gold)}; leave it out"
            )
        gold = as_distance(told(gold, distance, where), distance, where)
    if isinstance(answer, Neighbors):
        metric = {} if answer.metric is None else {"metric": answer.metric}
        proof = {} if answer.certificate is None else said_of_certificate(answer.certificate)
        kept |= metric | proof
    save_gold(for_target(gold, name, where), name, Path(path), None, kept | said)


def _path(path: "str | os.PathLike[str]") -> str | Path:
    return path if isinstance(path, str) else Path(path)


def _plain_only(attributes: Any) -> dict[str, Any]:
    """As a dict; raises InputError if these are no names with text and numbers."""
    if attributes is None:
        return {}
    example = 'attributes={"algo": "HNSW", "buildtime": 12.5}'
    if not isinstance(attributes, Mapping):
        raise InputError(f"attributes={attributes!r}: is no dict; pass names with text or numbers, {example}")
    for key, value in attributes.items():
        plain = isinstance(key, str) and isinstance(value, str | int | float | np.number | np.bool_)
        too_wide = isinstance(value, int) and not -(2**63) <= value < 2**63
        if not plain or too_wide or "\0" in f"{key}{value}":
            raise InputError(f"attributes={{{key!r}: {value!r}}}: names are text, values text or numbers, {example}")
    return dict(attributes)


def _is_pair(answer: Any) -> bool:
    """Whether these are two matrices, and not the lines of one."""
    return isinstance(answer, tuple | list) and len(answer) == 2 and all(_dimensions(part) == 2 for part in answer)


def _dimensions(part: Any) -> int:
    try:
        return np.ndim(part)
    except ValueError:  # lines of several lengths
        return 0


def _array(values: Any, name: str) -> np.ndarray:
    """As an array of NumPy's, in this machine's order of bytes."""
    refuse_knns(values, name)
    if type(values).__module__.partition(".")[0] in ("h5py", "zarr"):  # some of it may never have been written
        raise InputError(f"{name}: is a stored array; pass its file's path (FILE:GROUP), or what it holds, as ids[:]")
    if np.ma.is_masked(values):
        raise InputError(f"{name}: has masked entries; fill those that are no neighbour with -1")
    try:
        found = _of_numpy(values)
    except Exception as error:  # each library raises its own kinds
        raise InputError(f"{name}: is no array that NumPy can take ({one_line(error)})") from error
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _of_numpy(values: Any) -> np.ndarray:
    speaks = hasattr(values, "__dlpack__")
    try:
        found = np.asarray(values)
        if found.dtype.kind != "O" or not speaks:
            return found
    except Exception:  # arrays on a GPU are taken by DLPack
        if not speaks:
            raise
    return np.from_dlpack(values, device="cpu")


def _ids(ids: np.ndarray, name: str) -> np.ndarray:
    """The same; raises InputError if this is no matrix of ids."""
    if ids.dtype.kind == "f" and ids.ndim == 2:
        raise InputError(
            f"{name}: holds {ids.dtype}, and ids are whole numbers; are these the distances? "
            "FAISS and scikit-learn return distances first: D, I = index.search(...)"
        )
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"{name}: holds {ids.dtype} {ids.shape}; an answer is a matrix of ids, (queries, neighbours)")
    if 0 in ids.shape:
        raise InputError(f"{name}: is empty, it holds {ids.shape[0]} queries with {ids.shape[1]} neighbours each")
    _refuse_low(ids, name)
    return ids


def _refuse_low(ids: np.ndarray, name: str) -> None:
    """Raise InputError if an id is below -1, which is no id and alone is."""
    if ids.dtype.kind == "i" and ids.min(initial=0) < -1:
        i, j = (int(x) for x in np.argwhere(ids < -1)[0])
        raise InputError(
            f"{name}: query {i} has the id {ids[i, j]} at rank {j} (both counted from 0); ids count from 0, -1 is no id"
        )


def _refuse_swapped(ids: np.ndarray, dists: np.ndarray, name: str) -> None:
    """Raise InputError if distances stand before ids: floats, or whole numbers that alone of the two are sorted."""
    if ids.dtype.kind == dists.dtype.kind == "f" or dists.dtype.kind not in "iu":
        return
    if ids.dtype.kind == "f" or (_sorted(ids) and not _sorted(dists) and not _sorted(dists[:, ::-1])):
        raise InputError(
            f"{name}: its first matrix holds distances and its second ids; the ids stand first here: (ids, dists). "
            "FAISS and scikit-learn return distances first: D, I = index.search(...)"
        )


def _sorted(values: np.ndarray) -> bool:
    """Whether no line falls."""
    return bool(np.all(values[:, 1:] >= values[:, :-1]))
