"""Public queries: rows of part 0 for which the database has no near duplicates, and an answer that is one answer.

As the organisers chose the private queries (sisap2023, select-queries.jl): twice as many rows as are wanted are drawn,
their 11 nearest rows in the database are found, and a row stays if its 10th and 11th neighbour are not equally far and
its ten nearest are farther than 0.1 in sum.  The first ones that stay are taken, in the order of the part.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpuknn.engine.choose import usable_cores
from gpuknn.engine.scan import exact_knn
from gpuknn.errors import InputError, RunError, option, same_again
from gpuknn.jobs.build.job import SEED
from gpuknn.storage.durable import appearing, digest, read_sealed, write_sealed
from gpuknn.vectors import ArrayVectors, Vectors
from gpuknn.vectors.converted import Converted
from gpuknn.workers.here import AT_WORK
from gpuknn.workers.stop import is_to_stop

NEAREST = 10
"""Neighbours by which queries are judged; the one that follows must be farther."""
FAR_ENOUGH = 0.1
"""Sum of the distances (1 - cosine) to the nearest; below it, a query has near duplicates."""
DRAWN = 2
"""Candidates for each query that is wanted."""
STAGE = f"{2:010d}-{2:010d}"
"""What the names of these receipts begin with."""


def draw(kept: np.ndarray, count: int) -> np.ndarray:
    """(m,) int64: numbers of rows, in order: DRAWN for each of `count` queries, or all if there are fewer.

    `kept` (n,): the rows that may be drawn.  RandomState's numbers are the same in all versions of NumPy (NEP 19).
    """
    order = np.random.RandomState(SEED).permutation(len(kept))
    return np.sort(kept[order[: DRAWN * count]].astype(np.int64))


def candidates(part: Vectors, numbers: np.ndarray) -> np.ndarray:
    """(m, d) float32: rows of unit length.  Raises InputError if one has none."""
    rows = Converted.of(part, range(len(part)), np.dtype(np.float32), True, None, False)
    found = np.empty((len(numbers), part.shape[1]), np.float32)
    for i, number in enumerate(numbers.tolist()):
        rows.read(number, found[i : i + 1])
    return found


def compare(parts: dict[range, Vectors], asked: Path, d: int, folder: str, share: int, piece: range) -> None:
    """Find the candidates' nearest rows in one part, and leave their distances and a receipt in the record's `folder`.

    `parts`: the rows of each part that are kept, by their place in the database.  `asked`: the file of candidates, of
    `d` components.  `share`: processes that share this machine's cores.  Raises InputError if a row cannot be measured.
    """
    rows = parts[piece]
    with AT_WORK:
        if is_to_stop():
            return
        found = ArrayVectors.of(np.fromfile(asked, np.float32).reshape(-1, d), "queries")
        threads = max(1, usable_cores() // share)
        dists = exact_knn(rows, found, k=min(NEAREST + 1, len(rows)), threads=threads, ignore_ids=True).dists
    path = receipt_of(folder, piece)
    with appearing(path.with_suffix(".bin")) as part:
        dists.tofile(part)
    write_sealed(path, {"digest": digest(dists.tobytes()), "shape": list(dists.shape)})


def receipt_of(folder: str, piece: range) -> Path:
    """Where the receipt for a part with these rows of the database lies in a record's folder."""
    return Path(folder) / f"{STAGE}.{piece.start:012d}-{piece.stop:012d}.json"


def read_receipt(folder: str, piece: range) -> np.ndarray | None:
    """(m, k) float32: the distances, if they are there and whole."""
    path = receipt_of(folder, piece)
    said = read_sealed(path) if path.exists() else {}
    if not said or not path.with_suffix(".bin").exists():
        return None
    dists = np.fromfile(path.with_suffix(".bin"), np.float32)
    if digest(dists.tobytes()) != said["digest"]:
        return None
    return dists.reshape(said["shape"])


def chosen(folder: str, pieces: Sequence[range], count: int) -> np.ndarray:
    """Which candidates become queries, by their numbers.  Raises InputError if none can be one."""
    nearest: np.ndarray | None = None
    for piece in pieces:
        dists = read_receipt(folder, piece)
        if dists is None:
            raise RunError(f"{receipt_of(folder, piece)}: was damaged meanwhile; {same_again()} computes it again")
        both = dists if nearest is None else np.hstack([nearest, dists])
        nearest = np.sort(both, axis=1)[:, : NEAREST + 1]
    assert nearest is not None  # a database has parts
    stays = nearest[:, :NEAREST].sum(axis=1, dtype=np.float64) > FAR_ENOUGH
    if nearest.shape[1] > NEAREST:
        stays &= nearest[:, NEAREST - 1] != nearest[:, NEAREST]
    found = np.flatnonzero(stays)[:count]
    if not len(found):
        raise InputError(
            f"none of {len(stays):,} rows drawn can be a query: all have near duplicates in the database; "
            f"{option('public_queries', 0)} draws none"
        )
    return found
