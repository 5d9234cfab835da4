"""What will be written, and from what; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError, RunError, same_again
from gpuknn.jobs.rewrite.formats import Format
from gpuknn.storage.destination import check_destination, lacking
from gpuknn.storage.durable import digest
from gpuknn.storage.location import is_url
from gpuknn.storage.record import Record
from gpuknn.vectors import Vectors
from gpuknn.vectors.derived import Derived
from gpuknn.vectors.target import Target
from gpuknn.workers.crew import Crew


@dataclass(frozen=True)
class Plan:
    """How a database will be written anew."""

    verb: str
    """The command that does it."""
    job: Any
    """A frozen dataclass: what decides the bytes, under the names of the command line's options."""
    destination: str
    format: Format
    rows: Derived
    target: Target
    """At the destination; a file is written under another name first."""
    beside: tuple[str, ...]
    """Other files that the target takes something from."""
    crew: Crew
    record: Record
    fresh: bool
    """Whether what an earlier call has left is thrown away."""
    replace: bool
    """Whether a destination that is there may go."""
    command: Sequence[str]
    """Words of a command line that go on with it."""
    budget: int
    """Bytes of memory for all that is read and made at once."""

    @property
    def title(self) -> str:
        """What is going to be done, in a line."""
        rows, was = self.rows, self.rows.source
        (n, d), width = rows.shape, was.shape[1]
        becomes = f"{rows.dtype}" if d == width else f"{d} x {rows.dtype}"
        return f"gpuknn {self.verb}: {n:,} rows x {width} {was.dtype} to {self.format.name}, {becomes}"

    @property
    def work(self) -> str:
        """How it is going to be done, in a line."""
        read, written = self.rows.source.nbytes / 2**20, self.target.nbytes / 2**20
        workers, parts = self.crew.workers, "one piece" if self.pieces == 1 else f"{self.pieces} pieces"
        return (
            f"{read:,.0f} MiB are read and {written:,.0f} MiB written in {parts} by {workers.count} x "
            f"{workers.device.name}, each in at most {self.memory / 2**20:,.0f} MiB of memory beside Python's own"
        )

    @property
    def pieces(self) -> int:
        """In how many the target is written."""
        return -(-len(self.rows) // self.target.piece_rows)

    @property
    def memory(self) -> int:
        """Bytes that each worker takes at most."""
        return self.target.piece_memory + self.rows.held_bytes(1)

    @property
    def facts(self) -> dict[str, str | int]:
        """The plan for a program."""
        (n, d), dtype = self.rows.shape, self.rows.dtype
        return {"format": self.format.name, "rows": n, "components": d, "dtype": dtype.name}

    @property
    def sources(self) -> list[str]:
        """All that is read, which must not be written to."""
        return [*self.rows.source.sources, *self.beside]


def record_at(destination: str, sources: Sequence[str], replace: bool, fresh: bool) -> Record:
    """The record of a job that writes there; raises InputError if nothing can be written."""
    record = record_of(destination)
    # Then what is there may be its own.
    going_on = record.begun if is_url(destination) else record.exists and not fresh
    check_destination(destination, sources, replace or going_on, stores=True)
    return record


def check_room(target: Target, folder: Path) -> None:
    """Raise RunError if the disk is too small; compressed targets are found out as they are written."""
    if is_url(target.path) or getattr(target, "compression", "none") != "none":
        return
    if said := lacking(folder, target.nbytes):
        raise RunError(f"{said}; make room and run {same_again()} again")


def refuse_too_large(source: Vectors) -> None:
    """Raise InputError if this machine has not the memory to decode the source, before it is tried."""
    need = source.held_bytes(1)
    if not need:
        return
    from gpuknn.workers.memory import machine_memory

    there = machine_memory()
    if need > there:
        raise InputError(
            f"{source.where}: takes {need / 2**30:.2f} GiB of memory to be decoded, this machine has "
            f"{there / 2**30:.2f} GiB; convert it on a larger one"
        )


def record_of(destination: str) -> Record:
    """Beside the destination; of one in an object store in the working folder, with a hash of the URL in its name."""
    if not is_url(destination):
        return Record.beside(Path(destination))
    url = destination.rstrip("/")
    return Record(Path(f"{url.rpartition('/')[2]}.{digest(url.encode())[:8]}.run"))
