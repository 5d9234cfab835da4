"""What workers tell while they work: events for whoever watches the run, counters for Prometheus.

An event (`progress.Event`) is a mapping of plain JSON values.  `event` is its name, `run` the job's own folder in its
record.

    progress    queries, shard, device, rows, bytes, operations, seconds: of a shard, so far
    shard       the same of a shard that is finished, and pairs: those refined
    merged      queries, rows [first, end], parts, seconds
    damaged     queries, rows: parts that are to be computed again
    begun       title, shards, rows, client: told by the client
    ended       told by the client, too

What a worker tells holds its `name` and, put in by Dask, as `worker` its address.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.progress import Listener
from gpuknn.workers.stop import own_worker

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "gpuknn"
"""What the names of all runs' topics begin with (`topic_of`)."""
THREADS_NAME = "0"
"""Of this process's own threads, among workers."""
_LISTENERS: dict[Path, Listener] = {}
"""Of the runs whose tasks are done by threads of this process."""


def tell(run: Path, event: str, **facts: object) -> None:
    """Tell those who watch the run what happened; called by a worker's task."""
    who = own_worker()
    told = {"event": event, "run": str(run), "name": str(who.name) if who else THREADS_NAME, **facts}
    if who:
        who.log_event(topic_of(run), told)
    elif hear := _LISTENERS.get(run):
        hear(told)


@contextmanager
def heard_here(run: Path, hear: Listener) -> Iterator[None]:
    """Hand over the run's events as threads of this process tell them, in these threads, as long as the context lasts.

    A record is held by one run, so no two runs have one folder.
    """
    _LISTENERS[run] = hear
    try:
        yield
    finally:
        del _LISTENERS[run]


@contextmanager
def heard(client: "Client", run: Path, hear: Listener) -> Iterator[None]:
    """Hand over the run's events as they come, in a thread of Dask's, as long as the context lasts."""
    client.subscribe_topic(topic_of(run), lambda event: hear(event[1]))
    try:
        yield
    finally:
        with suppress(Exception):  # of a client that was closed, nothing is left to undo, and what failed is told
            client.unsubscribe_topic(topic_of(run))


def topic_of(run: Path) -> str:
    """Of one run's events: a client hears of its own run only, the page of all."""
    return f"{TOPIC} {run}"


def count(phase: str, seconds: float, **amounts: float) -> None:
    """Add to this worker's counters, which its /metrics shows where prometheus_client is installed."""
    if COUNTERS:
        COUNTERS["seconds"].labels(phase).inc(seconds)
        for name, amount in amounts.items():
            COUNTERS[name].inc(amount)


def counters_told() -> bytes:
    """The counters as Prometheus reads them, if prometheus_client is installed."""
    from prometheus_client import generate_latest

    return bytes(generate_latest())


def _counters() -> dict[str, Any]:
    if not find_spec("prometheus_client"):
        return {}
    from prometheus_client import Counter

    return {
        "rows": Counter("gpuknn_rows", "Rows scanned; those of several passes over the database count each time"),
        "bytes": Counter("gpuknn_bytes_read", "Bytes of rows read"),
        "operations": Counter("gpuknn_operations", "Multiplications and additions that scoring all pairs takes"),
        "pairs": Counter("gpuknn_pairs_refined", "Pairs of query and row whose float64 distance was computed"),
        "shards": Counter("gpuknn_shards", "Shards finished"),
        "merges": Counter("gpuknn_merges", "Merges of partial results"),
        "seconds": Counter("gpuknn_seconds", "Seconds at work", ["phase"]),
    }


COUNTERS = _counters()
