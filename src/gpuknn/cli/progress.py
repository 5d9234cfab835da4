"""What a long job shows while it runs: a progress bar, lines of JSON, or nothing."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from gpuknn.cli.log import write_event
from gpuknn.jobs.tally import Event

SECONDS_BETWEEN_LINES = 10
"""Of a step under way, as JSON."""


@contextmanager
def shown(chosen: argparse.Namespace, row_bytes: int, row_operations: float = 0.0) -> Iterator["Shown"]:
    """What `--quiet`, `--json` and `--log-json` ask for, as long as the context lasts.

    A row of so many bytes and operations turns rows per second into rates.
    """
    if getattr(chosen, "log_json", False):
        yield Shown()
        return
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=None, table_column=Column(max_width=40)),  # in a narrow terminal it gives way
        TaskProgressColumn(),
        _RateColumn(row_bytes, row_operations),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=chosen.quiet or chosen.json or not console.is_terminal,
    )
    with bar:
        yield _Bar(bar)


@dataclass
class _Step:
    """A part of a job that goes over rows, and the events of which a fact tells how many are done."""

    name: str
    rows: int
    events: list[str]
    fact: str
    task: TaskID | None = None
    """The bar's."""
    written: float = 0.0
    """When its last line of JSON was written, and at how many rows."""
    at: int = -1


class Shown:
    """What shows a job: one JSON object a line on standard error."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def title(self, line: str, plan: Event) -> None:
        """What is going to be done, in a line for people and in facts for programs."""
        write_event({"event": "plan", **plan})

    def step(self, name: str, rows: int, events: str, fact: str, computes: bool) -> None:
        """Say which events, and which fact of them, tell how far a step over so many rows is."""
        self._steps.append(_Step(name, rows, events.split(), fact))

    def happened(self, event: Event) -> None:
        """Show an event."""
        for step in self._steps:
            if event["event"] in step.events:
                self._moved(step, event[step.fact])
        self._told(event)

    def _moved(self, step: _Step, rows: int) -> None:
        now = time.monotonic()
        if rows != step.at and (rows == step.rows or now - step.written > SECONDS_BETWEEN_LINES):
            step.written, step.at = now, rows
            write_event({"event": step.name, "rows": rows, "of": step.rows})

    def _told(self, event: Event) -> None:
        """How far each piece is would be too much; steps tell how far all are."""
        if event["event"] not in ("progress", "checked", "resumed"):
            write_event(event)


class _Bar(Shown):
    """A progress bar of several steps, one after another; silent if standard error is no terminal."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self._bar = bar

    def title(self, line: str, plan: Event) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._say(line)

    def step(self, name: str, rows: int, events: str, fact: str, computes: bool) -> None:
        """A line of the bar."""
        super().step(name, rows, events, fact, computes)
        self._steps[-1].task = self._bar.add_task(name, total=rows, computes=computes)

    def _moved(self, step: _Step, rows: int) -> None:
        if step.task is not None:
            self._bar.update(step.task, completed=rows)

    def _told(self, event: Event) -> None:
        """What is said is shown also if there is no bar."""
        if event["event"] == "said":
            self._say(event["line"])
        elif event["event"] == "watch" and not self._bar.disable:
            self._say(f"watch it at {event['address']}")

    def _say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Rows, bytes and operations per second."""

    def __init__(self, row_bytes: int, row_operations: float) -> None:
        super().__init__(Column(no_wrap=True))
        self._row_bytes, self._row_operations = row_bytes, row_operations

    def render(self, task: Task) -> Text:
        """The rates, once there are any."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        line = f"{speed:,.0f} rows/s  {speed * self._row_bytes / 1e9:.2f} GB/s"
        if task.fields["computes"]:
            line += f"  {speed * self._row_operations / 1e9:,.0f} GFLOP/s"
        return Text(line)
