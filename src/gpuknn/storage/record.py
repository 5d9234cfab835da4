"""The record of a long job: what is finished stays finished, whatever happens to the process, the node or the disk.

manifest.json           whose it is: the job's fingerprint, and for a reader what it was, the command and its folder
finished.json           what is said of the answer or target, written just before that gets its name
gpuknn.lock             held while a client works on the job (`lock.py`)
FINGERPRINT/            results and their receipts, and a target that is being written; the job's own folder, since a
                        task that was given up on may still be at work, and must not write among those of another job
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError, RunError, option, same_again
from gpuknn.storage.destination import check_destination
from gpuknn.storage.durable import read_sealed, remove, sync, write_sealed
from gpuknn.storage.lock import LOCK, Held, is_held, lock

Description = Mapping[str, str | int | float | bool | None]

MANIFESTS = ("manifest.json", "manifest.copy.json")
MANIFEST = {
    "fingerprint": str,
    "settings": dict,
    "rows": int,
    "unit": str,
    "title": str,
    "job": dict,
    "command": list,
    "folder": str,
}
"""What one says, and of which type."""
FINISHED = "finished.json"
TARGET = "target"
"""What is written, if it is not made of results at the end."""
REPLACED = "replaced"
"""What had the target's name before, while the target is given it."""
OURS = re.compile(re.escape(LOCK) + r"|(manifest(\.copy)?|finished)\.json(\.[0-9a-f]+\.part)?|[0-9a-f]{32}")
"""Names of what is in a record; nothing else is ever removed."""
RESULTS = re.compile(rf"(\d{{10,}}-\d{{10,}}\.)+(bin|json)(\.[0-9a-f]+\.part)?|{TARGET}|{REPLACED}")
"""Names of what is in a job's folder.  Receipts end in FIRST-STOP.json, the rows that they are about."""


@dataclass(frozen=True)
class Identity:
    """What a job is, for its record."""

    fingerprint: str
    """32 hexadecimal digits of everything that decides the bytes."""
    description: Description
    """The same in words."""
    title: str
    """One line for whoever lists unfinished jobs."""
    rows: int
    """Rows there are to do, counting each pass over them."""
    settings: dict[str, int]
    """What a job that is gone on with must keep, though the answer does not depend on it."""
    command: Sequence[str] = ()
    """Words of the command line that go on with it."""
    elsewhere: str = ""
    """What to do if the record is another job's, beside discarding that."""
    unit: str = "rows"
    """What `rows` counts, if not rows."""


@dataclass(frozen=True)
class Claim:
    """A record that this process holds for a job."""

    settings: dict[str, int]
    """Those that the job began with."""
    folder: Path
    """The job's own."""
    held: Held


class Record:
    """One job's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, destination: Path) -> "Record":
        """That of a job that writes to `destination`."""
        return cls(destination.with_name(f"{destination.name}.run") if destination.name else destination)

    @property
    def exists(self) -> bool:
        """Whether a job has left something, or is at work."""
        try:
            return self.path.is_dir()
        except (OSError, ValueError):  # no name for a file
            return False

    @contextlib.contextmanager
    def held(self, job: Identity, fresh: bool, say: Callable[[str], None] = lambda _: None) -> Iterator[Claim]:
        """Make or take over the folder for a job; no other client may work on it meanwhile.

        With `fresh` earlier results are thrown away.  Raises InputError if the folder holds another job or files of
        somebody else's, RunError if another client holds it.
        """
        self._refuse_strangers()
        with lock(self.path / LOCK, say) as held:
            if fresh:
                self._remove_files()
            yield Claim(self._claim(job), self.path / job.fingerprint, held)

    def note(self, part: Path | None, said: Mapping[str, Any]) -> None:
        """Keep what is said of an answer or target, which is whole in `part` and gets its name next.

        None: it is in an object store, at its place.
        """
        write_sealed(self.path / FINISHED, {**said, "file": part and _look(part)})

    def noted(self, output: Path | None) -> dict[str, Any]:
        """What was said of the answer or target, whichever job's, if `output` is what was noted; empty if not."""
        with contextlib.suppress(OSError):
            said = read_sealed(self.path / FINISHED)
            return said if said.get("file", "") == (output and _look(output)) else {}
        return {}

    def publish(self, claim: Claim, said: Mapping[str, Any], replace: bool = True) -> None:
        """Give the finished target the name that the record is named after; what had the name before goes.

        Raises RunError if another client has taken the record over, or if the name is taken and must not be replaced;
        InputError if a folder has the name that holds something else than such a target.
        """
        target, destination = claim.folder / TARGET, self._destination
        aside = target.with_name(REPLACED)
        sync(target)
        claim.held.check()
        if replace:  # and a folder may have come that nobody meant
            check_destination(str(destination), (), True, stores=True)
        self.note(target, said)
        if replace and os.path.lexists(destination) and (destination.is_dir() or target.is_dir()):
            remove(aside)
            os.rename(destination, aside)
        (os.replace if replace else _rename)(target, destination)
        sync(destination.absolute().parent)

    @property
    def begun(self) -> bool:
        """Whether there is a job to go on with."""
        return bool(_read_manifest(self.path))

    def forget(self, claim: Claim) -> None:
        """Remove a job's results, and a target that is being written; the job stays claimed."""
        self._put_back()
        for file in claim.folder.iterdir():
            remove(file)

    def has_results(self) -> bool:
        """Whether something was finished."""
        return any(self.path.glob("*/*-*.json"))

    def give_up(self, claim: Claim) -> None:
        """The same as `remove`, unless another client has taken the record over."""
        with contextlib.suppress(RunError):
            claim.held.check()
            self.remove()

    def discard(self) -> None:
        """The same as `remove`, unless another client is at work there (RunError) or it is no record (InputError)."""
        self._refuse_strangers()
        with lock(self.path / LOCK):
            self.remove()

    def remove(self) -> None:
        """Delete what the job has left, and the folder: the answer is written, or there will be none."""
        self._remove_files(keep=FINISHED)
        (self.path / LOCK).unlink(missing_ok=True)
        (self.path / FINISHED).unlink(missing_ok=True)  # last: if this is cut short, the same command knows the answer
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @property
    def _destination(self) -> Path:
        return self.path.with_name(self.path.name.removesuffix(".run"))

    def _refuse_strangers(self) -> None:
        """Raise InputError if the folder holds files that no job has left there."""
        if os.path.exists(self.path) and not self.exists:
            raise InputError(f"{self.path}: is in the way and no run directory; remove it, or name another")
        for file in self.path.iterdir() if self.exists else ():
            inside = file.iterdir() if file.is_dir() else ()
            if not OURS.fullmatch(file.name) or not all(RESULTS.fullmatch(one.name) for one in inside):
                raise InputError(f"{self.path}: is not a run directory, it holds {file.name}; name an empty one")

    def _remove_files(self, keep: str | None = None) -> None:
        """Remove everything but the lock."""
        self._put_back()
        # Without a manifest nothing is believed.  It goes first, or last if the job is finished: it then knows itself.
        finished = keep == FINISHED and (self.path / FINISHED).exists()
        for file in sorted(self.path.iterdir(), key=lambda file: (file.name in MANIFESTS) == finished):
            if file.name == keep:
                continue
            if file.is_dir() and OURS.fullmatch(file.name):
                shutil.rmtree(file, ignore_errors=True)  # a task that was given up on may be writing there
            elif OURS.fullmatch(file.name) and file.name != LOCK:
                file.unlink(missing_ok=True)

    def _put_back(self) -> None:
        """What a job that was killed while it published had put aside gets its name back."""
        for aside in self.path.glob(f"*/{REPLACED}"):
            if not os.path.lexists(self._destination):
                os.rename(aside, self._destination)

    def _claim(self, job: Identity) -> dict[str, int]:
        """The settings to go on with; the folder is the job's now."""
        found, fresh = _read_manifest(self.path), option("fresh", True)
        if found.get("fingerprint") == job.fingerprint:
            self._sweep(self.path / job.fingerprint)
            if not self.has_results():
                found |= {"settings": job.settings, "rows": job.rows}
        elif found:
            earlier = found["job"]
            changed = [name for name, value in job.description.items() if earlier.get(name) != value]
            what = ", ".join(changed) or "the files were changed since"
            raise InputError(
                f"{self.path}: holds what another job has left (other: {what}); {fresh} discards it{job.elsewhere}"
            )
        elif any(_sealed(self.path / name) for name in MANIFESTS):
            raise InputError(
                f"{self.path}: was left by another version of gpuknn, which goes on with it; {fresh} discards "
                f"it{job.elsewhere}"
            )
        else:
            self._remove_files(keep=FINISHED)
            found = {"fingerprint": job.fingerprint, "settings": job.settings, "rows": job.rows, "title": job.title}
            found |= {
                "unit": job.unit,
                "job": dict(job.description),
                "command": list(job.command),
                "folder": os.getcwd(),
            }
        (self.path / job.fingerprint).mkdir(exist_ok=True)
        for name in MANIFESTS:
            if _sound_manifest(self.path / name) != found:
                write_sealed(self.path / name, found)
        settings: dict[str, int] = found["settings"]
        return settings

    def _sweep(self, folder: Path) -> None:
        """Remove what killed workers have left: unfinished files, and results without a receipt."""
        for file in [*self.path.glob("*.part"), *folder.glob("*")]:
            orphan = file.suffix == ".bin" and not file.with_suffix(".json").exists()
            if orphan or file.suffix == ".part":
                file.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunFound:
    """A job that was begun and is not finished."""

    path: Path
    title: str
    job: Description
    command: list[str]
    """Words of the command line that began it."""
    folder: str
    """Where that was."""
    rows: int
    """Rows that they cover; those of several passes count each time."""
    rows_in_all: int
    unit: str
    """What these two count: rows, or bytes of a download."""
    bytes: int
    at_work: bool
    """Whether a client holds it at the moment."""


def rows_kept(folder: Path) -> int:
    """How many rows the results in a job's folder are about; those of several passes count each time.

    Results may overlap, as one that takes the place of others is written before those are removed.
    """
    names = sorted(file.stem for file in folder.glob("*-*.json") if RESULTS.fullmatch(file.name))
    rows, stops = 0, dict.fromkeys((name.rpartition(".")[0] for name in names), 0)
    for name in names:
        of_pass, _, extent = name.rpartition(".")
        start, stop = map(int, extent.split("-"))
        rows += max(0, stop - max(start, stops[of_pass]))
        stops[of_pass] = max(stop, stops[of_pass])
    return rows


def find_runs(folder: Path) -> list[RunFound]:
    """The unfinished jobs in a folder, or the one that it is itself, by name."""
    found = []
    for path in sorted({path.parent for path in [*folder.glob(LOCK), *folder.glob(f"*/{LOCK}")]}):
        with contextlib.suppress(OSError):  # one that cannot be read hides no other
            if manifest := _read_manifest(path):
                found.append(_found(path, manifest))
    return found


def _found(path: Path, manifest: dict[str, Any]) -> RunFound:
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a job at work replaces its files
            size += file.stat().st_size
    return RunFound(
        path,
        title=manifest["title"],
        job=manifest["job"],
        command=manifest["command"],
        folder=manifest["folder"],
        rows=sum(rows_kept(job) for job in path.iterdir() if job.is_dir()),
        rows_in_all=manifest["rows"],
        unit=manifest["unit"],
        bytes=size,
        at_work=is_held(path / LOCK),
    )


def _rename(path: Path, name: Path) -> None:
    """Give a file a name that no file has; raises RunError if one has it."""
    try:
        os.link(path, name)
    except FileExistsError as error:
        raise _taken(name) from error
    except OSError:  # no links on such a disk
        if os.path.lexists(name):
            raise _taken(name) from None
        os.rename(path, name)
    else:
        path.unlink()


def _taken(name: Path) -> RunError:
    return RunError(f"{name}: somebody has written a file of this name meanwhile; move it away, {same_again()} goes on")


def _look(path: Path) -> list[int]:
    """What tells a file from others, and from itself once somebody has written to it; a new name does not change it."""
    status = path.stat()
    return [status.st_ino] if path.is_dir() else [status.st_ino, status.st_size, status.st_mtime_ns]


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What a record's manifest says; empty if there is none that is whole, so that the job begins anew."""
    every = (_sound_manifest(folder / name) for name in MANIFESTS)
    return next((found for found in every if found), {})


def _sound_manifest(path: Path) -> dict[str, Any]:
    """What a manifest says, if it says all that one says."""
    found = {"unit": "rows"} | _sealed(path)  # which earlier versions did not write
    sound = all(isinstance(found.get(name), kind) for name, kind in MANIFEST.items())
    sound = sound and all(type(value) is int and value > 0 for value in [found["rows"], *found["settings"].values()])
    return found if sound and all(isinstance(word, str) for word in found["command"]) else {}


def _sealed(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except FileNotFoundError:
        return {}
