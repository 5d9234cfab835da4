"""What a long job shows while it runs: a progress bar, lines of JSON, or nothing."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gpuknn.cli.log import write_event
from gpuknn.progress import Event, Listener, bar

SECONDS_BETWEEN_LINES = 10
"""Of a step under way, as JSON."""


@contextmanager
def shown(chosen: argparse.Namespace) -> Iterator[Listener]:
    """What `--quiet`, `--json` and `--log-json` ask for, as long as the context lasts."""
    if getattr(chosen, "log_json", False):
        yield _Lines()
        return
    with bar(disable=chosen.quiet or chosen.json) as told:
        yield told


class _Lines:
    """One JSON object a line on standard error."""

    def __init__(self) -> None:
        self._steps: list[Event] = []
        self._written: dict[str, tuple[float, int]] = {}
        """When the last line of each step was written, and at how many rows."""

    def __call__(self, event: Event) -> None:
        """Write an event down; how far each piece is would be too much, steps tell how far all are."""
        for step in self._steps:
            if event["event"] in step["told_by"]:
                self._moved(step, event[step["fact"]])
        if event["event"] == "step":
            self._steps.append(event)
        elif event["event"] not in ("progress", "checked", "compiled", "resumed", "fetched", "verified"):
            write_event(event)

    def _moved(self, step: Event, rows: int) -> None:
        now = time.monotonic()
        written, at = self._written.get(step["name"], (0.0, -1))
        if rows != at and (rows == step["rows"] or now - written > SECONDS_BETWEEN_LINES):
            self._written[step["name"]] = now, rows
            write_event({"event": step["name"], "rows": rows, "of": step["rows"]})
