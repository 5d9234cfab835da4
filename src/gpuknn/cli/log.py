"""Structured log lines: what happens, one JSON object a line on standard error."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

SECONDS_BETWEEN_LINES = 10
"""Of a step under way."""


def write_event(event: dict[str, Any]) -> None:
    """One line: the time (UTC), the event's name and its facts."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}, default=str)
    sys.stderr.write(line + "\n")


class Log:
    """Takes the place of the progress bar (`progress.Bar`)."""

    @contextmanager
    def shown(self) -> Iterator["Log"]:
        """As long as the context lasts."""
        yield self

    def step(self, description: str, rows: int, computes: bool) -> "LoggedStep":
        """Begin a step over so many rows."""
        return LoggedStep(description, rows)

    def title(self, line: str) -> None:
        """Nothing: the plan says as much."""

    def say(self, line: str) -> None:
        """A line for people."""
        write_event({"event": "said", "line": line})

    def happened(self, event: dict[str, Any]) -> None:
        """An event; how far each shard is is too much, the steps tell how far all are."""
        if event["event"] != "progress":
            write_event(event)


class LoggedStep:
    """A step, of which a line is written now and then."""

    def __init__(self, description: str, rows: int) -> None:
        self._description, self._all = description, rows
        self._written, self._rows = 0.0, -1

    def at(self, rows: int) -> None:
        """So many rows are done."""
        now = time.monotonic()
        if rows != self._rows and (rows == self._all or now - self._written > SECONDS_BETWEEN_LINES):
            self._written, self._rows = now, rows
            write_event({"event": self._description, "rows": rows, "of": self._all})
