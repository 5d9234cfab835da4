"""A plan at work: pieces to workers, receipts to the record, the finished target to its name."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpuknn.engine.choose import usable_cores
from gpuknn.errors import InputError, RunError, option, same_again
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.rewrite.plan import Plan, check_room
from gpuknn.jobs.standing import JOB, Standing
from gpuknn.jobs.writing import pieces_of, pieces_written, write_pieces
from gpuknn.progress import Event, Listener, step
from gpuknn.storage.destination import check_destination
from gpuknn.storage.durable import digest
from gpuknn.storage.location import absolute, is_url, listing
from gpuknn.storage.record import TARGET, Claim, Identity
from gpuknn.vectors import Sampled, file_state, sampled
from gpuknn.vectors.target import Piece, Target
from gpuknn.workers.crew import THREADS, Crew

VERSION = 3
"""Raised when the same options come to write other bytes."""


@dataclass(frozen=True)
class Outcome:
    """What was done."""

    pieces: int
    written: int
    """Pieces that were not there already."""
    counted: float
    """What `Derived.take` counts, of all rows."""
    seconds: float

    def facts(self, counts: str) -> dict[str, float]:
        """The same for a program, which calls what was counted `counts`."""
        return {counts if name == "counted" else name: value for name, value in vars(self).items()}


def run_rewrite(plan: Plan, on_event: Listener = lambda _: None) -> Outcome:
    """Write the target and give it its name; goes on from what an earlier call has finished.

    `on_event` is told what happens:

        plan        title: in a line, and the plan's facts;  step: of what follows (`gpuknn.progress`)
        said        line: for a person
        progress    done: rows that are on disk
        written     output, and the outcome

    Raises InputError if the rows cannot be made, and then leaves nothing behind; RunError or OSError if the same
    plan goes on later; Interrupted, which says whether it does.
    """
    there = None if is_url(plan.destination) else Path(plan.destination)

    def kept(rows: int) -> str:
        return f"{rows:,} of {len(plan.rows):,} rows are written and kept"

    standing = Standing(plan.record, plan.destination, there, plan.fresh, kept)
    with interrupts_told(standing.__str__):
        return _run(plan, standing, on_event)


def _run(plan: Plan, standing: Standing, on_event: Listener) -> Outcome:
    started = time.monotonic()
    source, record, local = plan.rows.source, plan.record, not is_url(plan.destination)

    def say(line: str) -> None:
        on_event({"event": "said", "line": line})

    (n, d), itemsize = plan.rows.shape, plan.rows.dtype.itemsize
    on_event({"event": "plan", "title": plan.title, **plan.facts})
    if source.files_told:
        say(f"{source.where}: {source.files_told}")
    on_event(step("writing", n, "progress", "done", d * itemsize))
    sample, beside = sampled(source), {path: repr(listing(path)) for path in plan.beside}
    title = f"{source.where} to {plan.destination}"
    fingerprint = _fingerprint(plan, sample, beside)
    identity = Identity(fingerprint, asdict(plan.job), title, len(plan.rows), {}, plan.command)
    with record.held(identity, plan.fresh, say) as claim:
        standing.fingerprint, standing.claim = fingerprint, claim
        said, there = record.noted(Path(plan.destination) if local else None), None
        if said.get(JOB) != fingerprint or not isinstance(said.get("pieces"), int):
            there, pieces = _write(plan, claim, sample, beside, on_event, say)
            counted = reduce(plan.rows.together, (piece.counted for piece in pieces))
            said = {JOB: fingerprint, "pieces": len(pieces), "counted": counted}
            if local:  # and somebody may have written there meanwhile
                check_destination(plan.destination, plan.sources, plan.replace, stores=True)
                record.publish(claim, said, plan.replace)
            else:
                record.note(None, said)
        standing.finished = True
        record.remove()  # also if an earlier call was killed when only that was left to do
    written = 0 if there is None else said["pieces"] - there
    done = Outcome(said["pieces"], written, said["counted"], time.monotonic() - started)
    on_event({"event": "written", "output": plan.destination, **done.facts(plan.rows.counts)})
    return done


def _fingerprint(plan: Plan, sample: Sampled, beside: dict[str, str]) -> str:
    """Of everything that decides the target's bytes, where they are written, and the pieces."""
    place = plan.destination.rstrip("/") if is_url(plan.destination) else ""
    target = repr(replace(plan.target, path=place)), plan.target.piece_rows
    rows = sorted(plan.rows.said.items())
    sources = sorted((beside | {plan.rows.source.where: sample.identity}).items())
    return digest(repr((VERSION, sources, rows, target, sorted(asdict(plan.job).items()))).encode())


def _write(
    plan: Plan,
    claim: Claim,
    sample: Sampled,
    beside: dict[str, str],
    on_event: Callable[[Event], None],
    say: Callable[[str], None],
) -> tuple[int, list[Piece]]:
    """Have all pieces written and the target completed; how many pieces were there, and all of them."""
    record = plan.record
    try:
        if not is_url(plan.destination) and os.path.exists(plan.destination) and not plan.replace:
            raise InputError(f"{plan.destination}: exists already; {option('force', True)} replaces it")
        if not record.has_results():
            check_room(plan.target, claim.folder)
        if plan.crew.local:
            plan.rows.prepare(on_event)
        with plan.crew.started(say) as crew:
            return _finish(plan, crew, claim, sample, beside, on_event)
    except BaseException:
        if not record.has_results():
            record.give_up(claim)
        raise


def _finish(
    plan: Plan, crew: Crew, claim: Claim, sample: Sampled, beside: dict[str, str], on_event: Callable[[Event], None]
) -> tuple[int, list[Piece]]:
    """The same with the workers that are there."""
    path = plan.destination if is_url(plan.destination) else str(claim.folder / TARGET)
    target = replace(plan.target, path=path)
    pieces, done = pieces_of(target), pieces_written(target, claim.folder)
    try:
        if not done or not (is_url(path) or os.path.exists(path)):
            done.clear()
            plan.record.forget(claim)
            target.create()
        there, todo = len(done), [piece for piece in pieces if piece not in done]
        rows = sum(map(len, done))
        on_event({"event": "progress", "done": rows})
        if todo:
            with (
                crew.feeder(min(len(todo), _fitting(plan)), claim.held.check) as feeder,
                closing(write_pieces(feeder, todo, *_everywhere(plan, target), claim.folder)) as written,
            ):
                for piece, receipt in written:
                    done[piece] = receipt
                    rows += len(piece)
                    on_event({"event": "progress", "done": rows})
        _check_unchanged(plan, sample, beside)
        receipts = [done[piece] for piece in pieces]
        target.finish(_notes(plan, sample, receipts))
    except BaseException as error:
        if isinstance(error, InputError) or not done:
            with suppress(InputError, RunError):
                claim.held.check()
                target.discard()
            plan.record.give_up(claim)
        raise
    return there, receipts


def _check_unchanged(plan: Plan, sample: Sampled, beside: dict[str, str]) -> None:
    """Raise RunError if the source, or a file beside it, is not as it was when it was looked at first."""
    try:
        now = {path: repr(listing(path)) for path in beside}
        changed = [path for path in beside if now[path] != beside[path]]
        if file_state(plan.rows.source) != sample.state:
            changed.append(plan.rows.source.where)
    except InputError as error:  # it could be read before: what was written stays
        raise RunError(str(error)) from error
    if changed:
        raise RunError(f"{changed[0]}: was changed while it was read; run {same_again()} with {option('fresh', True)}")


def _fitting(plan: Plan) -> int:
    """How many pieces may be in memory at once, with the rows that their readers hold decoded."""
    each, rows = plan.target.piece_memory, plan.rows
    if not each + rows.held_bytes(1):
        return sys.maxsize
    most = max(plan.crew.workers.count, THREADS * usable_cores())
    return next((n for n in range(most, 1, -1) if n * each + rows.held_bytes(n) <= plan.budget), 1)


def _everywhere(plan: Plan, target: Target) -> tuple[Any, Target]:
    """Rows and target for a process with another working folder."""
    return plan.rows.absolute(), replace(target, path=absolute(target.path))


def _notes(plan: Plan, sample: Sampled, pieces: list[Piece]) -> dict[str, Any]:
    """What the target says of itself: where it comes from, and a checksum of each piece's rows."""
    rows, source = plan.rows, plan.rows.source
    return {
        "version": version("gpuknn"),
        "source": source.name,
        **({"source_files": source.files_told} if source.files_told else {}),
        "source_key": source.key or "",
        "source_shape": list(source.shape),
        "source_dtype": source.dtype.name,
        "source_fingerprint": sample.content,
        "key": getattr(plan.target, "key", ""),
        **rows.said,
        "piece_rows": plan.target.piece_rows,
        "crc32c": [piece.crc32c for piece in pieces],
    }
