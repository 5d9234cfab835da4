"""What workers tell while they work: events for whoever watches the run, counters for Prometheus."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distributed import Client, get_worker

from gpuknn.progress import Event

TOPIC = "gpuknn"
"""What the names of all runs' topics begin with (`topic_of`).

An event (`tally.Event`) is a mapping of plain JSON values.  `event` is its name, `run` the job's
own folder in its record.

    progress    queries, shard, device, rows, bytes, operations, seconds: of a shard, so far
    shard       the same of a shard that is finished, and pairs: those refined
    merged      queries, rows [first, end], parts, seconds
    damaged     queries, rows: parts that are to be computed again
    begun       title, shards, rows, client: told by the client, as is
    ended

What a worker tells holds its `name` and, put in by Dask, as `worker` its address.
"""


def tell(run: Path, event: str, **facts: object) -> None:
    """Tell those who watch the run what happened; called by a worker's task."""
    worker = get_worker()
    worker.log_event(topic_of(run), {"event": event, "run": str(run), "name": str(worker.name), **facts})


@contextmanager
def heard(client: Client, run: Path, hear: Callable[[Event], None]) -> Iterator[None]:
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
