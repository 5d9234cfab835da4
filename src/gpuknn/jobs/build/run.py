"""A planned bundle at work: parts to workers, receipts to the record, finished files to their names."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.errors import InputError, RunError, option, same_again
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.build import metadata, outputs, queries
from gpuknn.jobs.build.kept import KeptVectors
from gpuknn.jobs.build.plan import Part, Plan
from gpuknn.jobs.pieces import read_receipts, remove_receipt, work_through
from gpuknn.jobs.standing import JOB, Standing
from gpuknn.jobs.writing import pieces_of, pieces_written, write_pieces
from gpuknn.laion.raw import QUERIES_PART
from gpuknn.progress import Event, Listener, step
from gpuknn.storage.destination import lacking
from gpuknn.storage.durable import appearing, digest
from gpuknn.storage.location import absolute, listing
from gpuknn.storage.record import TARGET, Claim, Identity
from gpuknn.vectors import Sampled, file_state, sampled
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.hdf5 import hdf5_target
from gpuknn.vectors.joined import JoinedVectors
from gpuknn.vectors.names import Members
from gpuknn.vectors.target import Piece, Target
from gpuknn.workers.feed import Feeder

VERSION = 1
"""Raised when the same job comes to write other bytes."""
TASK_BYTES = 2**27
"""What reading or copying a part takes, about, beside what its reader holds decoded."""
CANDIDATES = f"{3:010d}-{3:010d}.{0:012d}-{1:012d}.bin"
"""The file of rows that were drawn, in the record's folder."""


@dataclass(frozen=True)
class Outcome:
    """What was built."""

    database: Path
    captions: Path
    queries: Path | None
    rows: int
    """Of the database."""
    raw_rows: int
    """Of its parts."""
    public_queries: int
    seconds: float


def run_build(plan: Plan, on_event: Listener = lambda _: None) -> Outcome:
    """Build the bundle; goes on from what an earlier call has finished.

    `on_event` is told what happens:

        plan        title: in a line, and the plan's facts;  step: of what follows (`gpuknn.progress`)
        said        line: for a person
        progress    read, copied, compared: rows
        written     output, and the outcome

    Raises InputError if a part cannot be read or a file is in the way; RunError or OSError if the same plan goes on
    later; Interrupted, which says what is kept.
    """
    database, kept = plan.database, "what was read and written is kept"
    standing = Standing(plan.record, str(database), database, plan.fresh, lambda _: kept)
    with interrupts_told(standing.__str__):
        return _run(plan, standing, on_event)


def _run(plan: Plan, standing: Standing, on_event: Listener) -> Outcome:
    started = time.monotonic()
    record = plan.record

    def say(line: str) -> None:
        on_event({"event": "said", "line": line})

    on_event({"event": "plan", "title": plan.title, **plan.facts})
    made = not plan.folder.exists()
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        state = _state(plan)
        fingerprint = digest(
            repr((VERSION, replace(plan.job, raw="", catalogue=None), plan.recipe, state, _cut(plan))).encode()
        )
        title = f"{plan.job.raw} to {plan.database}"
        identity = Identity(fingerprint, asdict(plan.job), title, _rows_in_all(plan), {}, plan.command)
        with record.held(identity, plan.fresh, say) as claim:
            standing.fingerprint, standing.claim = fingerprint, claim
            said = record.noted(plan.database)
            if said.get(JOB) != fingerprint:
                said = _write(plan, claim, state, on_event, say) | {JOB: fingerprint}
                record.publish(claim, said, plan.force)
            standing.finished = True
            record.remove()  # also if an earlier call was killed when only that was left to do
    except BaseException:
        if made:
            with suppress(OSError):
                plan.folder.rmdir()
        raise
    done = Outcome(
        plan.database,
        plan.captions,
        plan.queries_file,
        said["rows"],
        said["raw_rows"],
        said["public_queries"],
        time.monotonic() - started,
    )
    on_event({"event": "written", "output": str(plan.database), **vars(done)})
    return done


def _rows_in_all(plan: Plan) -> int:
    """About as many rows as there are to read, to copy and to compare."""
    return plan.rows_read + plan.raw_rows * (2 if plan.asked else 1)


def _cut(plan: Plan) -> list[Any]:
    """What of the plan decides which rows are read."""
    return [(part.number, part.metadata.rows, part.metadata.most) for part in plan.every]


def _state(plan: Plan) -> list[tuple[Sampled, str]]:
    """What all files hold."""
    return [(sampled(part.vectors), repr(listing(part.metadata.path))) for part in plan.every]


def _check_unchanged(plan: Plan, state: list[tuple[Sampled, str]]) -> None:
    """Raise RunError if a part is not as it was when it was looked at first."""
    for part, (vectors, described) in zip(plan.every, state, strict=True):
        try:
            same = file_state(part.vectors) == vectors.state and repr(listing(part.metadata.path)) == described
        except InputError as error:  # it could be read before: what was written stays
            raise RunError(str(error)) from error
        if not same:
            raise RunError(
                f"part {part.number} ({part.vectors.where}, {part.metadata.path}): was changed while it was read; run "
                f"{same_again()} with {option('fresh', True)}"
            )


def _write(
    plan: Plan,
    claim: Claim,
    state: list[tuple[Sampled, str]],
    on_event: Listener,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Bring all files to disk, and all but the database to their names; what is noted of them."""
    try:
        with outputs.appearing_once(plan, claim, plan.captions) as captions:
            rows, chosen = _work(plan, claim, captions, state, on_event, say)
        if chosen is not None and plan.queries_file:
            with outputs.appearing_once(plan, claim, plan.queries_file) as part:
                outputs.write_queries(part, plan, chosen)
    except BaseException:
        if not plan.record.has_results():
            plan.record.give_up(claim)
        raise
    return {"rows": rows, "raw_rows": plan.raw_rows, "public_queries": 0 if chosen is None else len(chosen)}


def _work(
    plan: Plan,
    claim: Claim,
    captions: Path,
    state: list[tuple[Sampled, str]],
    on_event: Listener,
    say: Callable[[str], None],
) -> tuple[int, np.ndarray | None]:
    """Write the database, in the record's folder, and the captions; its rows, and (m, d) float32: public queries."""
    folder = str(claim.folder.absolute())
    with (
        plan.crew.started(say) as crew,
        crew.feeder(_tasks_at_once(plan), claim.held.check) as feeder,
        _given_up(plan, claim),
    ):
        kept = _read(plan, feeder, folder, on_event)
        _say_counts(plan, len(kept), say)
        with _beside(outputs.write_captions, captions, plan, folder) as written:

            def told(event: Event) -> None:
                if written.done():
                    written.result()  # what went wrong is told at once
                on_event(event)

            target, pieces = _copy(plan, feeder, kept, claim, told)
            share = crew.workers.count if crew.local else 1
            chosen = _ask(plan, feeder, kept, folder, share, told) if plan.asked else None
            written.result()
    if chosen is not None and len(chosen) < plan.queries:
        say(f"{len(chosen):,} queries, and not {plan.queries:,}: part {QUERIES_PART} has no more that can be one")
    _check_unchanged(plan, state)
    target.finish(outputs.notes(plan, target, pieces))
    return len(kept), chosen


@contextmanager
def _given_up(plan: Plan, claim: Claim) -> Iterator[None]:
    """Leave nothing of the work within if nothing can be made of these parts."""
    try:
        yield
    except InputError:
        plan.record.give_up(claim)
        raise


def _tasks_at_once(plan: Plan) -> int:
    """How many parts may be in memory at once, with what their readers hold decoded."""
    from gpuknn.workers.memory import memory_budget

    each = TASK_BYTES + max(part.vectors.held_bytes(1) for part in plan.every)
    return max(1, memory_budget(None) // each)


@contextmanager
def _beside(work: Callable[..., None], *arguments: Any) -> Iterator["Future[None]"]:
    """Have some work done by another thread meanwhile; after an error it ends early."""
    ending = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work, *arguments, ending)
        except BaseException:
            ending.set()
            raise


def _read(plan: Plan, feeder: Feeder, folder: str, on_event: Listener) -> JoinedVectors:
    """Have all parts' metadata read; the rows of the database.  Raises InputError if there are none."""
    every = tuple(replace(part.metadata, path=absolute(part.metadata.path)) for part in plan.every)
    row_bytes = max(2, sum(os.path.getsize(part.path) for part in every) // plan.rows_read)
    on_event(step("reading", plan.rows_read, "progress", "read", row_bytes))
    done, counts = 0, dict[range, int]()
    with closing(work_through(feeder, [part.rows for part in every], metadata.read_metadata, every, folder)) as read:
        for rows, count in read:
            done, counts[rows] = done + len(rows), count
            on_event({"event": "progress", "read": done, "copied": 0, "compared": 0})
    if plan.asked and not counts[plan.asked.metadata.rows]:
        raise InputError(f"{plan.asked.metadata.path}: the rule keeps no row to draw queries from")
    parts = []
    for part in plan.parts:
        rows = part.metadata.rows
        parts.append(KeptVectors.of(part.vectors, counts[rows], str(metadata.receipt_of(folder, rows))))
    n, first = sum(map(len, parts)), parts[0]
    if not n:
        raise InputError(f"{plan.job.raw}: the rule {plan.parts[0].metadata.rule} keeps no row")
    names = tuple(part.vectors.path for part in plan.parts)
    members = Members(tuple((name, None) for name in names), True)
    return JoinedVectors(plan.job.raw, None, (n, first.shape[1]), first.dtype, names, members, tuple(parts))


def _say_counts(plan: Plan, rows: int, say: Callable[[str], None]) -> None:
    say(f"{rows:,} of {plan.raw_rows:,} rows are kept, {plan.raw_rows - rows:,} are left out")
    published = plan.recipe.rows
    if published is not None and rows != published:
        say(
            f"the published {plan.recipe.database} has {published:,} rows: it was made of other parts, or by another "
            "rule"
        )


def _copy(
    plan: Plan, feeder: Feeder, kept: JoinedVectors, claim: Claim, on_event: Listener
) -> tuple[Target, list[Piece]]:
    """Have the rows written."""
    (n, d), folder = kept.shape, claim.folder
    target = hdf5_target(str(folder.absolute() / TARGET), (n, d), kept.dtype, None, None)
    rows = Converted.of(kept, range(n), kept.dtype, False, None, False)
    pieces, done = pieces_of(target), pieces_written(target, folder)
    if not done or not os.path.exists(target.path):
        done.clear()
        for stale in read_receipts(folder):
            remove_receipt(folder, stale)
        lines = sum(metadata.lines_of(str(folder), part.metadata.rows).stat().st_size for part in plan.parts)
        if said := lacking(folder, target.nbytes + lines):
            raise RunError(f"{said}; make room and run {same_again()} again")
        target.create()
    on_event(step("copying", n, "progress", "copied", kept.nbytes // n))
    copied = sum(map(len, done))
    on_event({"event": "progress", "read": plan.rows_read, "copied": copied, "compared": 0})
    todo = [piece for piece in pieces if piece not in done]
    with closing(write_pieces(feeder, todo, rows.absolute(), target, folder)) as written:
        for piece, receipt in written:
            done[piece] = receipt
            copied += len(piece)
            on_event({"event": "progress", "read": plan.rows_read, "copied": copied, "compared": 0})
    return target, [done[piece] for piece in pieces]


def _ask(plan: Plan, feeder: Feeder, kept: JoinedVectors, folder: str, share: int, on_event: Listener) -> np.ndarray:
    """(m, d) float32: the public queries."""
    assert plan.asked is not None  # or nobody asks
    drawn = _candidates(plan.asked, plan.queries, folder)
    d, asked = kept.shape[1], Path(folder) / CANDIDATES
    places = [range(a, b) for a, b in pairwise(kept.file_edges)]
    parts = {rows: part.absolute() for rows, part in zip(places, kept.parts, strict=True) if len(rows)}
    found = [rows for rows in parts if queries.read_receipt(folder, rows) is not None]
    on_event(step("comparing", len(kept), "progress", "compared", kept.nbytes // len(kept)))
    done = {"read": plan.rows_read, "copied": len(kept)}
    compared = sum(map(len, found))
    on_event({"event": "progress", **done, "compared": compared})
    todo = [rows for rows in parts if rows not in found]
    with closing(work_through(feeder, todo, queries.compare, parts, asked, d, folder, share)) as judged:
        for rows, _ in judged:
            compared += len(rows)
            on_event({"event": "progress", **done, "compared": compared})
    asked_for: np.ndarray = drawn[queries.chosen(folder, list(parts), plan.queries)]
    return asked_for


def _candidates(part: Part, count: int, folder: str) -> np.ndarray:
    """(m, d) float32: rows that are drawn from a part; workers find them in the record's folder."""
    kept = metadata.read_kept(str(metadata.receipt_of(folder, part.metadata.rows)))
    drawn = queries.candidates(part.vectors, queries.draw(kept, count))
    path = Path(folder) / CANDIDATES
    with appearing(path) as file:
        drawn.tofile(file)
    return drawn
