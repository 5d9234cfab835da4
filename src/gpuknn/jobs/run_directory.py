"""The run directory: what is finished stays finished, whatever happens to the process, the node or the disk.

    manifest.json           whose it is: the job's fingerprint, and what it was for a reader
    lock                    held while a client works on the run
    Q-Q.R-R.bin             a partial result, the neighbours of queries Q-Q among rows R-R: ids (nq, k) int64, then
                            dists (nq, k), little-endian
    Q-Q.R-R.json            its receipt: checksum and certificate; a partial without one does not count

Everything is written to a temporary name, brought to disk, and renamed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpuknn.errors import InputError, RunError
from gpuknn.exact.device import Certificate
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.file import sync


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

    def read(self, queries: range) -> Neighbors:
        """The answers to some of its queries."""
        first, count = queries.start - self.queries.start, len(queries)
        ids = np.fromfile(self.path, np.int64, count * self.k, offset=first * self.k * 8)
        start = len(self.queries) * self.k * 8 + first * self.k * self.dists.itemsize
        dists = np.fromfile(self.path, self.dists, count * self.k, offset=start)
        return Neighbors(ids.reshape(count, self.k), dists.reshape(count, self.k))

    def farthest(self) -> np.ndarray:
        """(nq,) float64: the k-th distances."""
        at_once = max(1, 2**22 // self.k)
        parts = [self.read(range(a, min(a + at_once, self.queries.stop))) for a in self.queries[::at_once]]
        return np.concatenate([part.dists[:, -1] for part in parts]).astype(np.float64)


def write_partial(
    folder: Path, queries: range, rows: range, found: Neighbors, certificate: Certificate, device: str
) -> None:
    """Bring a partial result and then its receipt to disk."""
    stem = f"{queries.start:010d}-{queries.stop:010d}.{rows.start:012d}-{rows.stop:012d}"
    digest = hashlib.blake2b(digest_size=16)
    data_path = folder / f"{stem}.bin"
    with _appearing(data_path) as file:
        for array in (found.ids, found.dists):
            data = np.ascontiguousarray(array).data.cast("B")
            digest.update(data)
            file.write(data)
    receipt = {
        "queries": [queries.start, queries.stop],
        "rows": [rows.start, rows.stop],
        "k": found.ids.shape[1],
        "dists": found.dists.dtype.name,
        "blake2b": digest.hexdigest(),
        "certificate": asdict(certificate),
        "device": device,
    }
    with _appearing(data_path.with_suffix(".json")) as file:
        file.write(json.dumps(receipt, indent=1).encode())


class RunDirectory:
    """One run's folder, held by this process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def held(self, fingerprint: str, description: dict[str, str | int], block: int, fresh: bool) -> Iterator[int]:
        """Make or take over the folder for the job of this fingerprint; no other client may work on it meanwhile.

        Yields the number of queries in a block: `block` for a new run, for an earlier one what it began with.  With
        `fresh` earlier partial results are thrown away.  Raises InputError where the folder belongs to another job,
        RunError where another client holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "lock", "w")  # noqa: SIM115 - held as long as the context
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made or written to ({error.strerror})") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"{self.path}: another gpuknn is at work on this run; wait for it or stop it") from error
            if fresh:
                self._empty()
            yield self._claim(fingerprint, description, block)

    def partials(self, queries: range) -> tuple[list[Partial], list[str]]:
        """The sound partial results for a block of queries, of disjoint rows, in their order; names of damaged ones.

        Receipts of damaged ones are removed.
        """
        sound: list[Partial] = []
        damaged: list[str] = []
        for receipt in sorted(self.path.glob(f"{queries.start:010d}-{queries.stop:010d}.*-*.json")):
            partial = _checked(receipt, queries)
            if partial is None:
                damaged.append(receipt.stem)
                receipt.unlink()
            elif not sound or partial.rows.start >= sound[-1].rows.stop:
                sound.append(partial)
        return sound, damaged

    def remove(self) -> None:
        """Delete the folder: the answer is written."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _empty(self) -> None:
        for file in [*self.path.glob("*-*.*"), *self.path.glob("manifest.json")]:
            file.unlink()

    def _claim(self, fingerprint: str, description: dict[str, str | int], block: int) -> int:
        manifest = self.path / "manifest.json"
        if manifest.exists():
            try:
                found = json.loads(manifest.read_text())
            except ValueError:
                found = {}
            if found.get("fingerprint") == fingerprint:
                return int(found["queries_at_once"])
            earlier = found.get("job", {})
            changed = [name for name, value in description.items() if earlier.get(name) != value]
            what = ", ".join(changed) or "the database or queries were changed since"
            raise InputError(
                f"{self.path}: holds another job's partial results (other: {what}); "
                "--fresh discards them, --run-dir names another folder"
            )
        for file in self.path.glob("*-*.*"):
            file.unlink()
        with _appearing(manifest) as out:
            said = {"fingerprint": fingerprint, "queries_at_once": block, "job": description}
            out.write(json.dumps(said, indent=1).encode())
        return block


def _checked(receipt: Path, queries: range) -> Partial | None:
    """The partial that a receipt speaks of; None where it is not whole."""
    try:
        said = json.loads(receipt.read_text())
        certificate = Certificate(**said["certificate"])
        path = receipt.with_suffix(".bin")
        dists = np.dtype(said["dists"])
        partial = Partial(path, queries, range(*said["rows"]), said["k"], dists, certificate, said["device"])
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return partial if said["blake2b"] == digest else None


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which appears under its name once it is whole and on disk."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)
