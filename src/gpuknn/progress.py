"""What long work tells while it is at it, and the bar that shows it in a terminal or a notebook.

An event is a mapping; `event` is its name.  The bar knows these, and leaves all others alone:

    plan    title: what is going to be done, in a line
    step    name, rows: a part of the work that goes over so many rows;  title: for a person;  told_by, fact: the
            events, and what in them, that tell how many are done;  row_bytes, row_operations: of a row; 1 byte if bytes
            are counted, 0 bytes if other things than rows are, so that their rate says nothing
    said    line: for a person
    watch   address: where a browser can watch
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from gpuknn.errors import pip_install

Event = Mapping[str, Any]
Listener = Callable[[Event], None]


@contextmanager
def listening(progress: bool | Listener) -> Iterator[Listener]:
    """What is to be told of work under way, as long as the context lasts.

    `progress`: True for a bar, in a terminal or a notebook; False for nothing, but that what is said is logged; or the
    caller's own function, which is told all events.
    """
    if progress and not callable(progress):
        with bar() as shown:
            yield shown
    else:
        yield progress or _log


@contextmanager
def bar(disable: bool = False) -> Iterator[Listener]:
    """A bar for each step on standard error, or in a notebook's cell; elsewhere only what is said is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    notebook = console.is_jupyter and not disable
    if notebook and not find_spec("ipywidgets"):
        console.print(f"a bar in a notebook needs ipywidgets: {pip_install('notebook')}", markup=False, highlight=False)
        notebook = False
    shown = Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=None, table_column=Column(max_width=40)),  # in a narrow terminal it gives way
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=disable or not (console.is_terminal or notebook),
    )
    with shown:
        yield _Bar(shown)


class _Bar:
    """The steps of one piece of work, each a line of the bar."""

    def __init__(self, shown: Any) -> None:
        self._shown = shown
        self._steps: list[tuple[Any, Event]] = []

    def __call__(self, event: Event) -> None:
        """Show an event."""
        name = event["event"]
        for task, step in self._steps:
            if name in step["told_by"]:
                self._shown.update(task, completed=event[step["fact"]], rate=self._rate(task, step))
        if name == "step":
            if event["title"] != event["name"]:  # a line above: beside the bar it would leave no room for the bar
                self._say_if_shown(event["title"])
            self._steps.append((self._shown.add_task(event["name"], total=event["rows"], rate=""), event))
        elif name == "said":
            self._say(event["line"])
        elif name in ("plan", "watch"):
            self._say_if_shown(event["title"] if name == "plan" else f"watch it at {event['address']}")

    def _rate(self, number: Any, step: Event) -> str:
        """Rows, bytes and operations per second, once there are any."""
        task = next(task for task in self._shown.tasks if task.id == number)
        speed = task.finished_speed or task.speed
        if not speed or not step["row_bytes"]:
            return ""
        if step["row_bytes"] == 1:
            return f"{readable(int(speed))}/s"
        line = f"{speed:,.0f} rows/s  {speed * step['row_bytes'] / 1e9:.2f} GB/s"
        if step["row_operations"]:
            line += f"  {speed * step['row_operations'] / 1e9:,.0f} GFLOP/s"
        return line

    def _say_if_shown(self, line: str) -> None:
        if not self._shown.disable:
            self._say(line)

    def _say(self, line: str) -> None:
        self._shown.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def step(
    name: str,
    rows: int,
    told_by: str,
    fact: str = "rows",
    row_bytes: int = 0,
    row_operations: float = 0.0,
    title: str | None = None,
) -> Event:
    """The event that announces a step; `told_by`: names of events, separated by spaces; `title`: its name if None."""
    about = {"told_by": told_by.split(), "fact": fact, "row_bytes": row_bytes, "row_operations": row_operations}
    return {"event": "step", "name": name, "title": title or name, "rows": rows, **about}


def readable(size: int) -> str:
    """A number of bytes as people read it, such as 1.03 GiB."""
    exponent = min(max(0, size.bit_length() - 1) // 10, 4)
    return f"{size / 1024**exponent:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def _log(event: Event) -> None:
    if event["event"] == "said":
        logging.getLogger("gpuknn").info(event["line"])
