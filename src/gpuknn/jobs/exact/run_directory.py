"""The run directory: what is finished stays finished, whatever happens to the process, the node or the disk.

manifest.json           whose it is: the job's fingerprint, and for a reader what it was, the command and its folder
answer.json             what the answer's file says of itself, written just before the file gets its name
gpuknn.lock             held while a client works on the run (`lock.py`)
FINGERPRINT/            partial results and their receipts (`partial.py`); the job's own folder, since a task that was
                        given up on may still be at work, and must not write among those of another job
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError
from gpuknn.jobs.exact.partial import PARTIAL_NAME
from gpuknn.storage.durable import read_sealed, write_sealed
from gpuknn.storage.lock import LOCK, Held, is_held, lock

Description = dict[str, str | int]

MANIFESTS = ("manifest.json", "manifest.copy.json")
ANSWER = "answer.json"
OURS = re.compile(re.escape(LOCK) + r"|(manifest(\.copy)?|answer)\.json(\.[0-9a-f]+\.part)?|[0-9a-f]{32}")
"""Names of what is in a run directory; nothing else is ever removed."""
PARTIALS = re.compile(PARTIAL_NAME)


@dataclass(frozen=True)
class Claim:
    """A run directory that this process holds for a job."""

    block: int
    """Queries at once."""
    partials: Path
    """The folder of the job's partial results."""
    held: Held


class RunDirectory:
    """One run's folder, held by this process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def held(
        self,
        fingerprint: str,
        description: Description,
        block: int,
        fresh: bool,
        command: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Claim]:
        """Make or take over the folder for the job of this fingerprint; no other client may work on it meanwhile.

        `block`: the number of queries that fit into memory at once; a run that has finished something goes on with what
        it began with.  With `fresh` earlier partial results are thrown away.  `command` is kept for whoever finds the
        folder.  Raises InputError where the folder holds another job, files of somebody else's, or blocks that do not
        fit; RunError where another client holds it.
        """
        self._refuse_strangers()
        with lock(self.path / LOCK, say) as held:
            if fresh:
                self._remove_files()
            yield Claim(self._claim(fingerprint, description, block, command), self.path / fingerprint, held)

    def note_answer(self, part: Path, said: Mapping[str, str | int | float]) -> None:
        """Keep what is said of the answer, which is whole in `part` and gets its name next."""
        write_sealed(self.path / ANSWER, {**said, "file": _look(part)})

    def answer(self, output: Path) -> dict[str, Any]:
        """What was said of the answer, if `output` is the file that was noted; empty if not."""
        with contextlib.suppress(OSError):
            said = read_sealed(self.path / ANSWER)
            return said if said.get("file") == _look(output) else {}
        return {}

    def has_partials(self) -> bool:
        """Whether something was finished."""
        return any(self.path.glob("*/*-*.json"))

    def discard(self) -> None:
        """The same as `remove`, unless another client is at work there (RunError) or it is none (InputError)."""
        self._refuse_strangers()
        with lock(self.path / LOCK):
            self.remove()

    def remove(self) -> None:
        """Delete what the run has left, and the folder: the answer is written, or there will be none."""
        self._remove_files(keep=ANSWER)
        (self.path / LOCK).unlink(missing_ok=True)
        (self.path / ANSWER).unlink(missing_ok=True)  # last: if this is cut short, the same command knows the answer
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _refuse_strangers(self) -> None:
        """Raise InputError where the folder holds files that no run has left there."""
        for file in self.path.iterdir() if self.path.is_dir() else ():
            inside = file.iterdir() if file.is_dir() else ()
            if not OURS.fullmatch(file.name) or not all(PARTIALS.fullmatch(one.name) for one in inside):
                raise InputError(f"{self.path}: is not a run directory, it holds {file.name}; name an empty one")

    def _remove_files(self, keep: str | None = None) -> None:
        for file in self.path.iterdir():
            if file.name == keep:
                continue
            if file.is_dir() and OURS.fullmatch(file.name):
                shutil.rmtree(file, ignore_errors=True)  # a task that was given up on may be writing there
            elif OURS.fullmatch(file.name) and file.name != LOCK:
                file.unlink(missing_ok=True)

    def _claim(self, fingerprint: str, description: Description, block: int, command: Sequence[str]) -> int:
        found = _read_manifest(self.path)
        if found.get("fingerprint") == fingerprint:
            self._sweep(self.path / fingerprint)
            if not self.has_partials():
                found["queries_at_once"] = block
            elif found["queries_at_once"] > block:
                raise InputError(
                    f"{self.path}: was begun with {found['queries_at_once']:,} queries at once, and there is memory "
                    f"for {block:,} now; give it more (--memory) or, to begin anew, --fresh"
                )
        elif found:
            earlier = found["job"]
            changed = [name for name, value in description.items() if earlier.get(name) != value]
            what = ", ".join(changed) or "the database or queries were changed since"
            raise InputError(
                f"{self.path}: holds another job's partial results (other: {what}); "
                "--fresh discards them, --run-dir names another folder"
            )
        else:
            self._remove_files(keep=ANSWER)
            found = {"fingerprint": fingerprint, "queries_at_once": block, "job": description}
            found |= {"command": list(command), "folder": os.getcwd()}
        (self.path / fingerprint).mkdir(exist_ok=True)
        for name in MANIFESTS:
            if _sound_manifest(self.path / name) != found:
                write_sealed(self.path / name, found)
        return int(found["queries_at_once"])

    def _sweep(self, partials: Path) -> None:
        """Remove what killed workers have left: unfinished files, and partial results without a receipt."""
        for file in [*self.path.glob("*.part"), *partials.glob("*")]:
            orphan = file.suffix == ".bin" and not file.with_suffix(".json").exists()
            if orphan or file.suffix == ".part":
                file.unlink(missing_ok=True)


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
    """Rows of the database that they cover, each pass over it counting in part."""
    bytes: int
    at_work: bool
    """Whether a client holds it at the moment."""


def find_runs(folder: Path) -> list[RunFound]:
    """The runs in a folder, or the one that it is itself, by name."""
    found = (_found(path) for path in sorted({path.parent for path in [*folder.glob(LOCK), *folder.glob(f"*/{LOCK}")]}))
    return [run for run in found if run is not None]


def _found(path: Path) -> RunFound | None:
    manifest = _read_manifest(path)
    if not manifest:
        return None
    names = [file.stem for file in path.glob("*/*-*.json") if PARTIALS.fullmatch(file.name)]
    ends = [tuple(map(int, name.split(".")[1].split("-"))) for name in names]
    passes = -(-int(manifest["job"]["number of queries"]) // int(manifest["queries_at_once"]))
    rows = sum(stop - start for start, stop in ends) // passes
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a run at work replaces its files
            size += file.stat().st_size
    command, began = manifest["command"], manifest["folder"]
    return RunFound(path, manifest["job"], command, began, len(names), rows, size, is_held(path / LOCK))


def _look(file: Path) -> list[int]:
    """What tells a file from others, and from itself once somebody has written to it; a new name does not change it."""
    status = file.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What a run's manifest says; empty where there is none that is whole, so that the run begins anew."""
    every = (_sound_manifest(folder / name) for name in MANIFESTS)
    return next((found for found in every if found), {})


def _sound_manifest(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except FileNotFoundError:
        return {}
