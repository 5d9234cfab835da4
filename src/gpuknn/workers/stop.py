"""How work under way is asked to stop: a thread cannot be stopped from outside, so a long task looks now and then."""

import sys
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client, Worker

ANSWER_WITHIN = 5.0
"""Seconds for a worker to say what it is at."""

_asked: set[str] = set()
"""The tasks, by their keys, that the Dask workers of this process are to end."""
_thread = threading.local()
"""`ending`: of a thread that does tasks without Dask, an event that asks it to end what it is at."""


def own_worker() -> "Worker | None":
    """Dask's worker that does the task that asks; None if a thread of the client's process does it, without Dask."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def end_with(ending: threading.Event) -> None:
    """Have the tasks of this thread end soon once the event is set."""
    _thread.ending = ending


def ask_to_stop(client: "Client", tasks: Sequence[str]) -> set[str]:
    """Ask all workers to end these tasks soon; those of them that are under way, as far as workers answer in time."""
    import asyncio

    async def ask(workers: Collection[str]) -> set[str]:
        asked = [
            asyncio.ensure_future(client.run(_stop, tasks, workers=[worker], on_error="ignore", asynchronous=True))
            for worker in workers
        ]
        done, late = await asyncio.wait(asked, timeout=ANSWER_WITHIN) if asked else (set(), set())
        for one in late:
            one.cancel()
        answers = [one.result() for one in done if not one.exception()]
        return {task for answer in answers for under_way in answer.values() for task in under_way}

    async def ask_all() -> set[str]:
        return await ask((await client.scheduler.identity(n_workers=-1))["workers"])

    found: set[str] = client.sync(ask_all, callback_timeout=2 * ANSWER_WITHIN)
    return found


def is_to_stop() -> bool:
    """Whether the task that asks is to end: it was asked to, or the client has taken it back or has gone."""
    worker = own_worker()
    if not worker:
        ending = getattr(_thread, "ending", None)
        return ending is not None and ending.is_set()
    key = worker.get_current_task()
    task = worker.state.tasks.get(key)
    return key in _asked or task is None or task.state != "executing"


def _stop(tasks: Sequence[str], dask_worker: "Worker") -> list[str]:
    """Called by a worker: those of the tasks that it is at."""
    _asked.update(tasks)
    return [task.key for task in dask_worker.state.executing if task.key in tasks]
