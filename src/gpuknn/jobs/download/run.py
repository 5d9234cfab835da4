"""A planned download at work: one file after the other."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.errors import InputError, RunError
from gpuknn.interrupts import interrupts_told, kept_and_goes_on, nothing_changed
from gpuknn.jobs.download.file import BYTES, fetch
from gpuknn.jobs.download.plan import Plan
from gpuknn.jobs.download.server import web
from gpuknn.jobs.download.transfer import CONNECTIONS
from gpuknn.jobs.download.verify import verified
from gpuknn.laion.held import Held, held
from gpuknn.progress import Listener, readable, step
from gpuknn.storage.record import Record, find_runs

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Outcome:
    """What a download did."""

    files: tuple[Held, ...]
    """All that were asked for, as they are there now."""
    fetched: int
    """Bytes, those of earlier calls left out."""
    seconds: float


def run_download(plan: Plan, on_event: Listener = lambda _: None) -> Outcome:
    """Fetch what is missing, and compare with its md5 sum what is there.

    A file that cannot be had does not keep the others waiting.  `on_event` is told what happens:

        plan        title: in a line, and the plan's facts;  step: of what follows (`gpuknn.progress`)
        said        line: for a person
        fetched     bytes: of all files, those there were before left out
        file        name, state, md5: of a file that is done

    Raises InputError if a file cannot be had or is not the catalogue's, RunError if the same plan goes on later, and
    Interrupted, which says what is kept.
    """
    standing = Standing(plan)
    with interrupts_told(standing.__str__):
        return _run(standing, on_event)


@dataclass
class Standing:
    """How far a download has come, for whoever interrupts it."""

    plan: Plan
    begun: bool = False

    def __str__(self) -> str:
        """What is kept, and what the same command does."""
        if not self.begun:
            return nothing_changed()
        left = [held(self.plan.folder, each.file) for each in self.plan.to_do]
        whole = sum(each.state not in ("missing", "begun") for each in left)
        size = readable(sum(each.bytes for each in left))
        kept = f"{whole} of {len(left)} files, and {size} in all, are kept in {self.plan.folder}"
        return kept_and_goes_on(kept, self.plan.fresh)


def _run(standing: Standing, on_event: Listener) -> Outcome:
    plan, started = standing.plan, time.monotonic()
    on_event({"event": "plan", "title": plan.title, **plan.facts})
    if plan.to_do:
        _make(plan.folder)
        on_event(step("fetching", plan.bytes, "fetched", "bytes", row_bytes=1))
        with web(CONNECTIONS) as client:
            standing.begun = True
            failures = _work(plan, client, on_event)
        _raise({name: error for name, error in failures.items() if not _right(plan, name)})
    files = tuple(held(plan.folder, each.file) for each in plan.files)
    for each in files:
        _clear(each)
    before = {each.path: each.bytes if each.state != "begun" or not plan.fresh else 0 for each in plan.files}
    fetched = sum(each.bytes - before[each.path] for each in files)
    return Outcome(files, fetched, time.monotonic() - started)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error


def _work(plan: Plan, client: "httpx.Client", on_event: Listener) -> dict[str, InputError | RunError]:
    """Fetch or verify each file; what went wrong, by the files' names."""
    failures: dict[str, InputError | RunError] = {}
    before = 0

    def say(line: str) -> None:
        on_event({"event": "said", "line": line})

    for planned in plan.to_do:
        file = planned.file
        each = held(plan.folder, file)  # another gpuknn may have fetched it meanwhile
        there = each.bytes if each.state == "begun" and not plan.fresh else 0

        def tell(done: int, offset: int = before - there) -> None:
            on_event({"event": "fetched", "bytes": max(0, offset + done)})

        try:
            if each.state == "here" and file.md5:
                now = verified(each, tell)
            elif each.state not in ("missing", "begun"):
                now = each
            else:
                fetch(client, file, plan.folder, plan.fresh, plan.command, tell, say)
                now = held(plan.folder, file)
            if now.state == "wrong":
                raise InputError(f"{each.path}: {now.wrong}; move it away, gpuknn replaces no file")
            on_event({"event": "file", "name": file.name, "state": now.state, "md5": now.md5, "bytes": now.bytes})
            before += now.bytes - there
        except (InputError, RunError) as error:
            failures[file.name] = error
            if len(plan.to_do) > 1:
                say(f"{file.name}: left out for now; {error}")
    return failures


def _right(plan: Plan, name: str) -> bool:
    """Whether a file is there after all: another gpuknn may have fetched it."""
    found = next(held(plan.folder, each.file) for each in plan.to_do if each.file.name == name)
    if found.state == "here" and found.file.md5:
        found = verified(found, lambda _: None)
    return found.state in ("here", "verified")


def _raise(failures: dict[str, InputError | RunError]) -> None:
    """Raise what went wrong with the first file that may go better the next time, or else with the first."""
    ordered = sorted(failures.values(), key=lambda error: isinstance(error, InputError))
    if ordered:
        others = f"; {len(failures)} files could not be had: {', '.join(failures)}" if len(failures) > 1 else ""
        raise type(ordered[0])(f"{ordered[0]}{others}")


def _clear(each: Held) -> None:
    """Remove what an unfinished download has left of a file that is there, by whomever."""
    record = Record.beside(each.path)
    ours = record.exists and (record.noted(each.path) or each.state == "verified")
    if ours and any(found.unit == BYTES for found in find_runs(record.path)):
        with suppress(RunError):  # another gpuknn is at work there
            record.discard()
