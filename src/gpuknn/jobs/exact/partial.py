"""Partial results: the neighbours of a block of queries among a range of rows, on disk.

    Q-Q.R-R.bin             ids (nq, k) int64, then dists (nq, k), little-endian
    Q-Q.R-R.json            its receipt: checksums and certificate; a partial without one does not count

The receipt is written last.  Checksums are of a megabyte or so each, so that the very bytes that are merged are
checked, however few are read at once.  Files are read, never mapped: on network folders another machine's file may be
replaced under a mapping.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.errors import RunError, same_again
from gpuknn.storage.durable import appearing, digest, read_sealed, write_sealed

STRIPE_BYTES = 2**20
"""Neighbours under one checksum, those of one query at least."""


@dataclass(frozen=True)
class Partial:
    """The neighbours of a block of queries among a range of rows, on disk."""

    path: Path
    queries: range
    rows: range
    k: int
    dists: np.dtype
    certificate: Certificate
    device: str
    stripe: int
    """Queries under one checksum."""
    digests: list[str]

    def read(self, queries: range) -> Neighbors:
        """The answers to some of its queries; raises Damaged where they are not what was written."""
        first, last = queries.start - self.queries.start, queries.stop - self.queries.start
        edges = [*range(first // self.stripe * self.stripe, last, self.stripe), len(self.queries)]
        stripes = [self._read(start, min(stop, start + self.stripe)) for start, stop in pairwise(edges)]
        ids, dists = (np.concatenate([getattr(s, name) for s in stripes]) for name in ("ids", "dists"))
        inside = slice(first - edges[0], last - edges[0])
        return Neighbors(ids[inside], dists[inside])

    def farthest(self) -> np.ndarray:
        """(nq,) float64: the k-th distances; raises Damaged, as all is read."""
        starts = [*self.queries[:: self.stripe], self.queries.stop]
        parts = [self.read(range(start, stop)).dists[:, -1] for start, stop in pairwise(starts)]
        return np.concatenate(parts).astype(np.float64)

    def _read(self, first: int, last: int) -> Neighbors:
        """The answers to one stripe of queries."""
        count = (last - first) * self.k
        try:
            ids = np.fromfile(self.path, np.int64, count, offset=first * self.k * 8)
            start = len(self.queries) * self.k * 8 + first * self.k * self.dists.itemsize
            dists = np.fromfile(self.path, self.dists, count, offset=start)
        except FileNotFoundError as error:
            raise Damaged(self.rows) from error
        if self.digests[first // self.stripe] != _digest(ids, dists):
            raise Damaged(self.rows)
        return Neighbors(ids.reshape(-1, self.k), dists.reshape(-1, self.k))


class Damaged(RunError):
    """A partial result is not what was written, or is gone."""

    def __init__(self, rows: range) -> None:
        super().__init__(
            f"the partial result of rows {rows.start:,} to {rows.stop:,} is damaged; {same_again()} computes it again"
        )


def write_partial(
    folder: Path, queries: range, rows: range, found: Neighbors, certificate: Certificate, device: str
) -> None:
    """Bring a partial result and then its receipt to disk."""
    path = _path(folder, queries, rows)
    k, dists = found.ids.shape[1], found.dists.dtype
    stripe = max(1, STRIPE_BYTES // (k * (8 + dists.itemsize)))
    with appearing(path) as part, open(part, "wb") as file:
        for array in (found.ids, found.dists):
            file.write(np.ascontiguousarray(array).data.cast("B"))
    firsts = range(0, len(queries), stripe)
    receipt = {
        "queries": [queries.start, queries.stop],
        "rows": [rows.start, rows.stop],
        "k": k,
        "dists": dists.name,
        "stripe": stripe,
        "digests": [_digest(found.ids[a : a + stripe], found.dists[a : a + stripe]) for a in firsts],
        "certificate": asdict(certificate),
        "device": device,
    }
    write_sealed(path.with_suffix(".json"), receipt)


def find_partial(folder: Path, queries: range, rows: range) -> Partial:
    """The partial result for these queries and rows; raises Damaged where there is none or its receipt is damaged."""
    path = _path(folder, queries, rows)
    try:
        said = read_sealed(path.with_suffix(".json"))
    except FileNotFoundError as error:
        raise Damaged(rows) from error
    named = [queries.start, queries.stop], [rows.start, rows.stop]
    if (said.get("queries"), said.get("rows")) != named:  # also if it is damaged, or another's under this name
        raise Damaged(rows)
    try:
        proof, dists, k, stripe = Certificate(**said["certificate"]), np.dtype(said["dists"]), said["k"], said["stripe"]
        numbers = proof.bound, proof.pairs_refined, proof.smallest_margin, k, stripe
        sound = dists in (np.float32, np.float64) and all(type(number) in (int, float) for number in numbers)
        sound = sound and isinstance(proof.method, str) and isinstance(said["device"], str) and k > 0
        if sound and len(range(0, len(queries), stripe)) == len(said["digests"]):
            return Partial(path, queries, rows, k, dists, proof, said["device"], stripe, said["digests"])
    except (TypeError, ValueError, KeyError):  # of somebody else's making
        pass
    raise Damaged(rows)


def find_partials(folder: Path, queries: range) -> tuple[dict[range, np.ndarray], list[range]]:
    """The sound partial results for a block of queries: disjoint rows, in order, and their (nq,) k-th distances.

    Also the rows of damaged ones, which are removed.  Of partial results that overlap the one of more rows counts: the
    others were merged into it.
    """
    names = [path.stem for path in folder.glob(f"{queries.start:010d}-{queries.stop:010d}.*-*.json")]
    every = [range(*map(int, name.split(".")[1].split("-"))) for name in names]
    sound: dict[range, np.ndarray] = {}
    damaged: list[range] = []
    done = 0
    for rows in sorted(every, key=lambda rows: (rows.start, -rows.stop)):
        if rows.start >= done:
            try:
                sound[rows] = find_partial(folder, queries, rows).farthest()
                done = rows.stop
                continue
            except Damaged:
                damaged.append(rows)
        remove_partial(folder, queries, rows)
    return sound, damaged


def remove_partial(folder: Path, queries: range, rows: range) -> None:
    """Remove a partial result, its receipt first."""
    path = _path(folder, queries, rows)
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _path(folder: Path, queries: range, rows: range) -> Path:
    return folder / f"{queries.start:010d}-{queries.stop:010d}.{rows.start:012d}-{rows.stop:012d}.bin"


def _digest(ids: np.ndarray, dists: np.ndarray) -> str:
    return digest(np.ascontiguousarray(ids).tobytes() + np.ascontiguousarray(dists).tobytes())
