"""The run directory: what is finished stays finished, whatever happens to the process, the node or the disk.

    manifest.json           whose it is: the job's fingerprint, and for a reader what it was, the command and its folder
    gpuknn.lock             held while a client works on the run
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
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpuknn.errors import InputError, RunError
from gpuknn.exact.device import Certificate
from gpuknn.exact.neighbors import Neighbors
from gpuknn.gold.file import sync

LOCK = "gpuknn.lock"
Description = dict[str, str | int]

OURS = re.compile(
    re.escape(LOCK) + r"|manifest\.json(\.\d+\.part)?|\d{10}-\d{10}\.\d{12}-\d{12}\.(bin|json)(\.\d+\.part)?"
)
"""Names of the files in a run directory; nothing else is ever removed."""


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
    def held(
        self, fingerprint: str, description: Description, block: int, fresh: bool, command: Sequence[str] = ()
    ) -> Iterator[int]:
        """Make or take over the folder for the job of this fingerprint; no other client may work on it meanwhile.

        Yields the number of queries in a block: `block` for a new run, for an earlier one what it began with.  With
        `fresh` earlier partial results are thrown away.  `command` is kept for whoever finds the folder.  Raises
        InputError where the folder holds another job or files of somebody else's, RunError where another client holds
        it.
        """
        self._refuse_strangers()
        with self._locked():
            if fresh:
                self._remove_files()
            yield self._claim(fingerprint, description, block, command)

    def partials(self, queries: range) -> tuple[list[Partial], list[str]]:
        """The sound partial results for a block of queries, of disjoint rows, in their order; names of damaged ones.

        Damaged ones are removed.
        """
        sound: list[Partial] = []
        damaged: list[str] = []
        for receipt in sorted(self.path.glob(f"{queries.start:010d}-{queries.stop:010d}.*-*.json")):
            partial = _checked(receipt, queries)
            if partial is None:
                damaged.append(receipt.stem)
                receipt.unlink()
                receipt.with_suffix(".bin").unlink(missing_ok=True)
            elif not sound or partial.rows.start >= sound[-1].rows.stop:
                sound.append(partial)
        return sound, damaged

    def discard(self) -> None:
        """The same as `remove`, unless another client is at work there (RunError) or it is none (InputError)."""
        self._refuse_strangers()
        with self._locked():
            self.remove()

    def remove(self) -> None:
        """Delete what the run has left, and the folder: the answer is written, or there will be none."""
        self._remove_files()
        (self.path / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the system takes back when this process dies."""
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = open(self.path / LOCK, "a")  # noqa: SIM115 - held as long as the context
            except OSError as error:
                raise InputError(f"{self.path}: cannot be made or written to ({error.strerror})") from error
            with lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise RunError(
                        f"{self.path}: another gpuknn is at work on this run; wait for it, or stop it"
                    ) from error
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock.fileno()), os.stat(self.path / LOCK)):
                        yield
                        return
            # Another client finished and removed the folder between our opening the lock and getting it.

    def _refuse_strangers(self) -> None:
        """Raise InputError where the folder holds files that no run has left there."""
        for file in self.path.iterdir() if self.path.is_dir() else ():
            if not OURS.fullmatch(file.name):
                raise InputError(f"{self.path}: is not a run directory, it holds {file.name}; name an empty one")

    def _remove_files(self) -> None:
        for file in self.path.iterdir():
            if OURS.fullmatch(file.name) and file.name != LOCK:
                file.unlink()

    def _claim(self, fingerprint: str, description: Description, block: int, command: Sequence[str]) -> int:
        manifest = self.path / "manifest.json"
        found = _read_manifest(manifest)
        if found.get("fingerprint") == fingerprint:
            self._sweep()
            return int(found["queries_at_once"])
        if found:
            earlier = found["job"]
            changed = [name for name, value in description.items() if earlier.get(name) != value]
            what = ", ".join(changed) or "the database or queries were changed since"
            raise InputError(
                f"{self.path}: holds another job's partial results (other: {what}); "
                "--fresh discards them, --run-dir names another folder"
            )
        self._remove_files()
        with _appearing(manifest) as out:
            said = {"fingerprint": fingerprint, "queries_at_once": block, "job": description}
            said |= {"command": list(command), "folder": os.getcwd()}
            out.write(json.dumps(said, indent=1).encode())
        return block

    def _sweep(self) -> None:
        """Remove what killed workers have left: unfinished files, and partial results without a receipt."""
        for file in self.path.iterdir():
            orphan = file.suffix == ".bin" and not file.with_suffix(".json").exists()
            if OURS.fullmatch(file.name) and (orphan or file.suffix == ".part"):
                file.unlink()


@dataclass(frozen=True)
class RunFound:
    """A run that was begun and is not finished."""

    path: Path
    job: Description
    command: list[str]
    """Words of the command line that began it."""
    folder: str
    """Where that was."""
    shards: int
    """Partial results there are."""
    rows: int
    """Rows of the database that they cover, counted for each block of queries."""
    bytes: int
    at_work: bool
    """Whether a client holds it at the moment."""


def find_runs(folder: Path) -> list[RunFound]:
    """The runs in a folder, or the one that it is itself, by name."""
    found = (_found(path.parent) for path in sorted([*folder.glob("manifest.json"), *folder.glob("*/manifest.json")]))
    return [run for run in found if run is not None]


def _found(path: Path) -> RunFound | None:
    manifest = _read_manifest(path / "manifest.json")
    lock = path / LOCK
    if not manifest or not lock.exists():
        return None
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            at_work = False
        except OSError:
            at_work = True
    names = [file.stem for file in path.glob("*-*.json")]
    ends = [tuple(map(int, name.split(".")[1].split("-"))) for name in names]
    rows = sum(stop - start for start, stop in ends)
    size = sum(file.stat().st_size for file in path.iterdir())
    command, began = manifest.get("command", []), manifest.get("folder", "")
    return RunFound(path, manifest["job"], command, began, len(names), rows, size, at_work)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest; empty where there is none or it is damaged, so that the run begins anew."""
    try:
        found = json.loads(path.read_text())
        return found if {"fingerprint", "queries_at_once", "job"} <= set(found) else {}
    except (OSError, ValueError, TypeError):
        return {}


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
        return partial if said["blake2b"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
