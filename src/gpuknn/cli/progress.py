"""The progress bar: rows, rates and time left; silent when standard error is not a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text


@dataclass(frozen=True)
class Rate:
    """What one row costs, to turn rows per second into rates."""

    row_bytes: int
    row_operations: float


class RateColumn(ProgressColumn):
    """Rows, bytes and operations per second."""

    def __init__(self, rate: Rate) -> None:
        super().__init__(Column(no_wrap=True))
        self._rate = rate

    def render(self, task: Task) -> Text:
        """The rates, once there are any."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        shown = f"{speed:,.0f} rows/s  {speed * self._rate.row_bytes / 1e9:.2f} GB/s"
        if task.fields["computes"]:
            shown += f"  {speed * self._rate.row_operations / 1e9:,.0f} GFLOP/s"
        return Text(shown)


class Bar:
    """A progress bar of several steps, one after another."""

    def __init__(self, rate: Rate, quiet: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None, table_column=Column(max_width=40)),  # in a narrow terminal it gives way
            TaskProgressColumn(),
            RateColumn(rate),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=quiet or not console.is_terminal,
        )

    @contextmanager
    def shown(self) -> Iterator["Bar"]:
        """Draw it, as long as the context lasts."""
        with self._bar:
            yield self

    def step(self, description: str, rows: int, computes: bool) -> "Step":
        """Begin a step over so many rows."""
        return Step(self._bar, self._bar.add_task(description, total=rows, computes=computes))

    def title(self, line: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self.say(line)

    def say(self, line: str) -> None:
        """A line that is shown also when there is no bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def happened(self, event: dict[str, Any]) -> None:
        """An event; the bar shows how far all is, so only where to watch it is worth a line."""
        if event["event"] == "watch":
            self.title(f"watch it at {event['address']}")


@dataclass(frozen=True)
class Step:
    """One line of the bar."""

    bar: Progress
    task: int

    def at(self, rows: int) -> None:
        """So many rows are done."""
        self.bar.update(self.task, completed=rows)  # type: ignore[arg-type]
