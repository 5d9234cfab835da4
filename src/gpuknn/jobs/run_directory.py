"""The run directory: what is finished stays finished, whatever happens to the process, the node or the disk.

    manifest.json           whose it is: the job's fingerprint, and what it was for a reader
    lock                    held while a client works on the run
    ROWS-ROWS.bin           a partial result: ids (nq, k) int64, then dists (nq, k), little-endian
    ROWS-ROWS.json          its receipt: checksum and certificate; a partial without one does not count

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
    """The neighbours among a range of rows, on disk."""

    path: Path
    rows: range
    shape: tuple[int, int]
    dists: np.dtype
    certificate: Certificate
    device: str

    def read(self, first: int, count: int) -> Neighbors:
        """The answers to `count` queries from `first` on."""
        nq, k = self.shape
        ids = np.fromfile(self.path, np.int64, count * k, offset=first * k * 8)
        dists = np.fromfile(self.path, self.dists, count * k, offset=nq * k * 8 + first * k * self.dists.itemsize)
        return Neighbors(ids.reshape(count, k), dists.reshape(count, k))


def write_partial(folder: Path, rows: range, found: Neighbors, certificate: Certificate, device: str) -> None:
    """Bring a partial result and then its receipt to disk."""
    stem = f"{rows.start:012d}-{rows.stop:012d}"
    nq, k = found.ids.shape
    digest = hashlib.blake2b(digest_size=16)
    with _appearing(folder / f"{stem}.bin") as file:
        for array in (found.ids, found.dists):
            data = np.ascontiguousarray(array).data.cast("B")
            digest.update(data)
            file.write(data)
    receipt = {
        "rows": [rows.start, rows.stop],
        "shape": [nq, k],
        "dists": found.dists.dtype.name,
        "blake2b": digest.hexdigest(),
        "certificate": asdict(certificate),
        "device": device,
    }
    with _appearing(folder / f"{stem}.json") as file:
        file.write(json.dumps(receipt, indent=1).encode())


class RunDirectory:
    """One run's folder, held by this process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def held(self, fingerprint: str, description: dict[str, str | int], fresh: bool) -> Iterator[None]:
        """Make or take over the folder for the job of this fingerprint; no other client may work on it meanwhile.

        With `fresh` earlier partial results are thrown away.  Raises InputError where the folder belongs to another
        job, RunError where another client holds it.
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
            self._claim(fingerprint, description)
            yield

    def partials(self, nq: int, k: int) -> tuple[list[Partial], list[str]]:
        """The sound partial results, of disjoint rows, in their order; and the names of damaged ones.

        Damaged ones and remains of unfinished ones are removed.
        """
        sound: list[Partial] = []
        damaged: list[str] = []
        for receipt in sorted(self.path.glob("*-*.json")):
            partial = _checked(receipt, nq, k)
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

    def _claim(self, fingerprint: str, description: dict[str, str | int]) -> None:
        manifest = self.path / "manifest.json"
        if manifest.exists():
            try:
                found = json.loads(manifest.read_text())
            except ValueError:
                found = {}
            if found.get("fingerprint") == fingerprint:
                return
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
            out.write(json.dumps({"fingerprint": fingerprint, "job": description}, indent=1).encode())


def _checked(receipt: Path, nq: int, k: int) -> Partial | None:
    """The partial that a receipt speaks of; None where it is not whole."""
    try:
        said = json.loads(receipt.read_text())
        certificate = Certificate(**said["certificate"])
        path = receipt.with_suffix(".bin")
        partial = Partial(path, range(*said["rows"]), (nq, k), np.dtype(said["dists"]), certificate, said["device"])
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return partial if said["shape"] == [nq, k] and said["blake2b"] == digest else None


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
