"""The files that are written beside the rows, and what they and the rows' file say of themselves."""

import filecmp
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from gpuknn.errors import InputError, option, same_again
from gpuknn.jobs.build import metadata
from gpuknn.jobs.build.job import SEED
from gpuknn.jobs.build.plan import Plan
from gpuknn.jobs.writing import pieces_of
from gpuknn.storage.durable import sync
from gpuknn.storage.record import Claim
from gpuknn.vectors import ArrayVectors
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.hdf5 import hdf5_target
from gpuknn.vectors.target import Piece, Target, write_piece

UNFINISHED = f"{4:010d}-{4:010d}.{{0:012d}}-{{0:012d}}.bin"
"""What the files are called in the record until they get their names."""


@contextmanager
def appearing_once(plan: Plan, claim: Claim, path: Path) -> Iterator[Path]:
    """A name in the record to write a file under; at the end it gets its own.

    Raises InputError if somebody has written another file of that name meanwhile.
    """
    part = claim.folder / UNFINISHED.format(plan.outputs.index(path))
    yield part
    sync(part)
    claim.held.check()
    if os.path.lexists(path) and not plan.force and not filecmp.cmp(path, part, shallow=False):
        raise InputError(
            f"{path}: exists already; move it away, and {same_again()} goes on, or {option('force', True)} replaces it"
        )
    os.replace(part, path)
    sync(path.absolute().parent)


def write_captions(part: Path, plan: Plan, folder: str, ending: Event) -> None:
    """One file of all parts' lines; ends early, and leaves it unfinished, once `ending` is set."""
    with open(part, "wb") as file:
        file.write(metadata.header(plan.parts[0].metadata.columns))
        for each in plan.parts:
            with open(metadata.lines_of(folder, each.metadata.rows), "rb") as lines:
                while block := lines.read(metadata.COPY_BYTES):
                    if ending.is_set():
                        return
                    file.write(block)
        file.flush()
        os.fsync(file.fileno())  # while rows are copied


def write_queries(part: Path, plan: Plan, chosen: np.ndarray) -> None:
    """A file of queries in the bundle's layout."""
    target = hdf5_target(str(part), (len(chosen), chosen.shape[1]), chosen.dtype, None, None)
    rows = Converted.of(ArrayVectors.of(chosen, "queries"), range(len(chosen)), chosen.dtype, False, None, False)
    target.create()
    pieces = [write_piece(rows, target, piece) for piece in pieces_of(target)]
    assert plan.asked is not None  # whose rows these are
    source = {"part": plan.asked.number, "seed": SEED, "rule": str(plan.asked.metadata.rule or "all")}
    target.finish({"version": version("gpuknn"), **source, "key": target.key, **_checksums(target, pieces)})


def notes(plan: Plan, target: Target, pieces: list[Piece]) -> dict[str, Any]:
    """What the database says of itself."""
    return {
        "version": version("gpuknn"),
        "parts": [part.number for part in plan.parts],
        "raw_rows": plan.raw_rows,
        "rule": str(plan.parts[0].metadata.rule or "all"),
        "key": getattr(target, "key", ""),
        **_checksums(target, pieces),
    }


def _checksums(target: Target, pieces: Iterable[Piece]) -> dict[str, Any]:
    return {"piece_rows": target.piece_rows, "crc32c": [piece.crc32c for piece in pieces]}
