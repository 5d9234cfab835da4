"""Watching a run from outside: where its page is, and Dask's performance report of it."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from gpuknn.errors import InputError, option, pip_install
from gpuknn.jobs.events import heard, heard_here, topic_of
from gpuknn.jobs.own_page import served
from gpuknn.jobs.page import PATH
from gpuknn.progress import Event, Listener
from gpuknn.storage.durable import appearing

if TYPE_CHECKING:
    from distributed import Client

SUBSCRIBED_FOR = 50
"""Tenths of a second."""


@contextmanager
def watched(
    client: "Client | None",
    run: Path,
    title: str,
    shards: Sequence[tuple[range, range]],
    hear: Listener,
    report: Path | None = None,
    lent: bool = False,
) -> Iterator[str]:
    """Show the computation of `shards` (queries, rows) on a page, whose address this yields.

    `client`: whose scheduler serves the page; None if threads of this process compute.  `hear`: is told the run's
    events, in other threads.  `report`: a file for Dask's performance report of what ended well.  `lent`: whether the
    scheduler is to be left as it was; else the page stays, so that a run's end can be seen.  Raises InputError, before
    anything is computed, if the scheduler cannot make a report.
    """
    rows = sum(len(rows) for _, rows in shards)
    begun = {"event": "begun", "run": str(run), "title": title, "shards": len(shards), "rows": rows}
    if client:
        with _on_scheduler(client, run, begun, report, lent), heard(client, run, hear):
            yield page_address(client)
        return
    with served() as (address, show):
        show({**begun, "client": ""})

        def hear_and_show(event: Event) -> None:
            show(event)
            hear(event)

        with heard_here(run, hear_and_show):
            yield address


@contextmanager
def _on_scheduler(client: "Client", run: Path, begun: Event, report: Path | None, lent: bool) -> Iterator[None]:
    """Show it on the scheduler's own HTTP server, as `page_address` says."""
    from gpuknn.jobs.scheduler_page import SchedulerPage

    if report and not _draws(client):
        raise InputError(
            f"{option('performance_report', report)}: needs Bokeh at the scheduler; install it there: "
            f"{pip_install('dashboard')}"
        )
    client.register_plugin(SchedulerPage())
    client.log_event(topic_of(run), {**begun, "client": client.id, "stays": not lent})
    try:
        with _reported(client, begun["title"], report):
            yield
        # Of a run that fails, the page sees the client leave.
        client.log_event(topic_of(run), {"event": "ended", "run": str(run)})
    finally:
        if lent and client.status == "running":
            with suppress(Exception):  # of a scheduler that was lost, nothing is left to undo, and what failed is told
                client.run_on_scheduler(_leave, run=str(run), topic=topic_of(run))


def page_address(client: "Client") -> str:
    """Where a browser finds the run's page, and Dask's dashboard where there is Bokeh to draw it."""
    dashboard, before = _reachable(client.dashboard_link)
    page = dashboard.removesuffix("/status") + PATH
    return (f"{page} and {dashboard}" if _draws(client) else page) + before


def _reachable(dashboard: str) -> tuple[str, str]:
    """The dashboard's address for a browser on this machine, and what has to be done before.

    On another host it often is on loopback there, since Dask's pages have no password; Dask's link does not tell.
    """
    place = urlsplit(dashboard)
    port = place.port or 80
    try:
        socket.create_connection((place.hostname or "", port), timeout=2).close()
        return dashboard, ""
    except OSError:
        here = urlunsplit(place._replace(netloc=f"127.0.0.1:{port}"))
        return here, f" after ssh -L {port}:127.0.0.1:{port} {place.hostname}"


async def _leave(run: str, topic: str, dask_scheduler: Any) -> None:
    """The run is over, and the scheduler is lent: forget its events, and take the page down if nobody needs it."""
    import asyncio

    from gpuknn.jobs.scheduler_page import SchedulerPage

    topics = dask_scheduler._broker._topics
    for _ in range(SUBSCRIBED_FOR):  # that the client has unsubscribed is heard a little later
        if topic not in topics or not topics[topic].subscribers:
            break
        await asyncio.sleep(0.1)
    topics.pop(topic, None)
    if shown := dask_scheduler.plugins.get(SchedulerPage.name):
        ended = shown.page.runs.get(run)
        if ended and ended.state == "at work":
            ended.stop("stopped")
        shown.leave()


def check_report(report: Path) -> None:
    """Raise InputError where the performance report cannot be made or written."""
    named = option("performance_report", report)
    if not find_spec("bokeh"):
        raise InputError(f"{named}: needs Bokeh; install it with: {pip_install('dashboard')}")
    if not report.absolute().parent.is_dir() or report.is_dir():
        raise InputError(f"{named}: names no file in a folder that is there")


@contextmanager
def _reported(client: "Client", title: str, report: Path | None) -> Iterator[None]:
    """Write the report whole; not at all if the computation fails, where asking for it would hide what failed."""
    if report is None:
        yield
        return
    from distributed import performance_report

    with appearing(report) as part:
        asked = performance_report(filename=str(part), mode="inline")
        with client.as_current():
            asked.__enter__()
        yield
        with client.as_current():  # not by __exit__: it would show this function's source as the code that was run
            client.sync(asked.__aexit__, None, None, None, code=escape(title))


def _draws(client: "Client") -> bool:
    """Whether the scheduler has what Dask's own pages need."""
    return bool(client.run_on_scheduler(lambda: find_spec("bokeh") is not None))
