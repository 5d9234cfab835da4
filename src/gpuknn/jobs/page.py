"""gpuknn's page: the runs under way and the last ones, in HTML and JSON."""

import json
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.jobs.tally import Tally
from gpuknn.progress import Event

if TYPE_CHECKING:
    from tornado.template import Template

PATH = "/gpuknn"
"""The page's; with .json for programs."""
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""The page fetches nothing but itself, every other second."""
RUNS_SHOWN = 5
EVENTS_SHOWN = 12
RATE_OVER = 60
"""Seconds over which the present rate is taken."""
AMOUNTS = ("rows", "bytes", "operations", "pairs", "shards")


class Page:
    """Hears what is told of runs, and shows it."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}

    def hear(self, event: Event) -> None:
        """Take in an event of any run."""
        if event["event"] == "begun":
            self.runs.pop(event["run"], None)
            self.runs[event["run"]] = Run(event["run"], event["title"], event["client"], event["shards"], event["rows"])
            for old in list(self.runs)[:-RUNS_SHOWN]:
                del self.runs[old]
        if run := self.runs.get(event["run"]):
            run.hear(event)

    def json(self, here: set[str]) -> bytes:
        """All that is shown, the newest run first; `here` are the workers that there are."""
        return json.dumps(self._summary(here)).encode()

    def html(self, here: set[str], dask: bool) -> bytes:
        """The same for people; `dask`: whether Dask's own pages are beside it."""
        return bytes(_template().generate(duration=duration, path=PATH, dask=dask, **self._summary(here)))

    def _summary(self, here: set[str]) -> dict[str, Any]:
        return {"time": _clock(time.time()), "runs": [run.summary(here) for run in reversed(self.runs.values())]}


@dataclass
class Run:
    """What is known of one run."""

    path: str
    title: str
    client: str
    shards: int
    """To do in this run, and their rows."""
    rows: int
    state: str = "at work"
    began: float = field(default_factory=time.monotonic)
    stopped: float | None = None
    tally: Tally = field(default_factory=Tally)
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4 * RATE_OVER))
    """Rows done so far, by time."""
    merges: list[Event] = field(default_factory=list)
    events: deque[tuple[float, Event]] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))

    def hear(self, event: Event) -> None:
        """Take in an event."""
        self.tally.hear(event)
        now = time.monotonic()
        if not self.samples or now - self.samples[-1][0] > RATE_OVER / 240:
            self.samples.append((now, self.tally.rows))
        if event["event"] != "progress":
            self.events.appendleft((time.time(), event))
        if event["event"] == "merged":
            self.merges.append(event)
        if event["event"] == "ended":
            self.stop("done")

    def stop(self, state: str) -> None:
        """The run is over."""
        self.state, self.stopped = state, time.monotonic()

    def summary(self, here: set[str]) -> dict[str, Any]:
        """All that is shown of it, in plain JSON values; `here` are the workers that the scheduler has."""
        seconds = (self.stopped or time.monotonic()) - self.began
        done = _sum(self.tally.work.values())
        rate = self._rows_per_second(seconds)
        workers: dict[str, list[Event]] = {}
        for event in self.tally.work.values():
            workers.setdefault(event["name"], []).append(event)
        return {
            "run": self.path,
            "title": self.title,
            "state": self.state,
            "seconds": seconds,
            "seconds_left": (self.rows - self.tally.rows) / rate if rate and self.state == "at work" else None,
            "shards": self.shards,
            "rows": self.rows,
            "done": done,
            "per_second": _rates(done, self.tally.rows / rate if rate else 0),
            "merges": {
                "merges": len(self.merges),
                "parts": sum(event["parts"] for event in self.merges),
                "seconds": sum(event["seconds"] for event in self.merges),
            },
            "workers": [
                {"worker": name, "here": name in here} | _worker(workers[name], seconds)
                for name in sorted(workers, key=lambda name: (len(name), name))
            ],
            "events": [{"time": _clock(at), **event} for at, event in self.events],
        }

    def _rows_per_second(self, seconds: float) -> float:
        """Of the last minute, or of the whole of a run that is over."""
        if self.stopped:
            return self.tally.rows / seconds if seconds else 0
        now = time.monotonic()
        then, rows = next((s for s in self.samples if now - s[0] <= RATE_OVER), (now, self.tally.rows))
        if self.began > now - RATE_OVER:
            then, rows = self.began, 0
        return (self.tally.rows - rows) / (now - then) if now > then else 0


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@cache
def _template() -> "Template":
    """Tornado's templates escape all that they are given; loaded when a browser asks first."""
    from tornado.template import Loader

    return Loader(str(Path(__file__).parent)).load("page.html")


def _sum(events: Iterable[Event]) -> dict[str, float]:
    totals: dict[str, float] = dict.fromkeys(AMOUNTS, 0)
    for event in events:
        for name in AMOUNTS[:-1]:
            totals[name] += event.get(name, 0)
        totals["shards"] += event["event"] == "shard"
    return totals


def _worker(events: list[Event], seconds: float) -> dict[str, Any]:
    """Of a worker's shards; its rates are those while it was at work on them."""
    done, busy = _sum(events), sum(event["seconds"] for event in events)
    return {
        "device": events[-1]["device"],
        "at": [[event["queries"], event["shard"]] for event in events if event["event"] == "progress"],
        "done": done,
        "per_second": _rates(done, busy),
        "busy": min(1.0, busy / seconds) if seconds else 0.0,
    }


def _rates(done: dict[str, float], seconds: float) -> dict[str, float]:
    return {name: done[name] / seconds if seconds else 0.0 for name in ("rows", "bytes", "operations")}


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
