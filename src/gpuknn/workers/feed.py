"""Keeping workers fed: tasks are given out a few at a time, and taken back as they end.

Never all tasks at once: when a worker dies, Dask blames every task that was assigned to it, also those that it had not
begun, and gives up on a task that was blamed often enough.  So a worker's death blames no others, each new task carries
the newest that is known, and workers that join late find something to do.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from queue import Empty, SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any

from gpuknn.errors import InputError, RunError, same_again
from gpuknn.interrupts import Check, interrupts_put_off
from gpuknn.workers.stop import ask_to_stop, end_with

if TYPE_CHECKING:
    from distributed import Client

WINDOW = 2
"""Tasks given to a worker: one at work, one waiting."""
LOST_AFTER = 60.0
"""Seconds without a fitting worker, or without the scheduler, after which a job gives up."""
LOOK_EVERY = 2.0
"""Seconds between looks at who is there, if nothing else happens."""
ANSWER_WITHIN = 10.0
"""Seconds for the scheduler to tell its workers."""


class Feeder:
    """Tasks under way, on Dask's workers or on threads of this process."""

    def __init__(
        self,
        submit: Callable[..., Any],
        window: Callable[[], int],
        check: Callable[[], None],
        stop: Callable[[list[Any]], set[Any]],
        client: "Client | None" = None,
    ) -> None:
        self._submit, self._window, self._check, self._stop = submit, window, check, stop
        self.client = client
        self._running: dict[Any, Any] = {}
        self._news: SimpleQueue[Any] = SimpleQueue()
        """Tasks that have ended, by their futures, and what is to be called."""
        self._check_interrupts: Check = lambda: None

    def __len__(self) -> int:
        return len(self._running)

    def room(self) -> int:
        """How many tasks should be under way at once: some for whoever comes late, even if nobody is there."""
        return max(WINDOW, self._window())

    def give(self, task: Any, work: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Have `work` done; `task` comes back with its result.  `options` are those of Dask's `Client.submit`."""
        future = self._submit(work, *arguments, **options)
        self._running[future] = task
        future.add_done_callback(self._news.put)

    def soon(self, work: Callable[[], None]) -> None:
        """Have the thread that takes tasks call `work`; may be asked by any thread, as by Dask's own.

        What the caller wants to be told is so told in the caller's thread, and may raise there.
        """
        self._news.put(work)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Raise KeyboardInterrupt where a task is taken, or when this ends; a second Ctrl-C raises it at once."""
        with interrupts_put_off(lambda: self.soon(lambda: None)) as self._check_interrupts:
            yield

    def take(self) -> tuple[Any, Any]:
        """The next task that has ended, and its future.

        Raises RunError if nobody is there to end one, or the record was taken over (`check`).
        """
        seen = time.monotonic()
        while True:
            self._check()
            # Before news are taken out, so that none are lost.
            self._check_interrupts()
            try:
                news = self._news.get(timeout=LOOK_EVERY)
                if news in self._running:
                    return self._running.pop(news), news
                if callable(news):  # and no task that was taken back
                    news()
            except Empty:
                if self._window():
                    seen = time.monotonic()
                elif time.monotonic() - seen > LOST_AFTER:
                    raise RunError(
                        f"no scheduler or fitting worker was there for {LOST_AFTER:.0f} s; what is finished is kept, "
                        f"{same_again()} goes on"
                    ) from None

    def tasks(self) -> list[Any]:
        """The tasks under way."""
        return list(self._running.values())

    def stop(self) -> None:
        """After an interrupt: take back what has not begun, and have the rest end soon.

        What is under way may still be taken, and is then as far as it came.  A second Ctrl-C is raised at once.
        """
        self._check_interrupts = lambda: None
        begun: set[Any] = set()
        with suppress(Exception):  # of a scheduler that was lost, nothing more is to be had
            begun = self._stop(list(self._running))
        for future in [future for future in self._running if future not in begun]:
            del self._running[future]
            with suppress(Exception):
                future.cancel()

    def cancel(self) -> None:
        """Take back what has not ended: Dask gives it up, and threads of this process finish what they have begun."""
        for future in self._running:
            with suppress(Exception):  # of a scheduler that was lost, nothing is left to take back
                future.cancel()
        self._running.clear()  # a notebook keeps the frames of what was interrupted, and Dask keeps what they hold


@contextmanager
def dask_feeder(client: "Client", need: dict[str, int], check: Callable[[], None]) -> Iterator[Feeder]:
    """Tasks for workers that have the resources `need`."""
    run, numbers = uuid.uuid4().hex[:8], count()

    def submit(work: Callable[..., Any], *arguments: Any, name: str = "task", **options: Any) -> Any:
        # Numbered, because a task may be submitted again while the scheduler still knows its earlier result.
        return client.submit(work, *arguments, key=f"{name}-{run}-{next(numbers)}", retries=1, **options)

    def stop(futures: list[Any]) -> set[Any]:
        begun = ask_to_stop(client, [future.key for future in futures])
        return {future for future in futures if future.done() or future.key in begun}

    feeder = Feeder(submit, lambda: WINDOW * _fitting(client, need), check, stop, client)
    with feeder.at_work():
        yield feeder


@contextmanager
def thread_feeder(threads: int, check: Callable[[], None]) -> Iterator[Feeder]:
    """Tasks for threads of this process, in the order in which they are given."""
    ending = Event()

    def stop(futures: list[Any]) -> set[Any]:
        ending.set()
        return {future for future in futures if future.running() or future.done()}

    pool, wait = ThreadPoolExecutor(threads, "gpuknn", end_with, (ending,)), True
    feeder = Feeder(lambda work, *arguments, **_: pool.submit(work, *arguments), lambda: threads, check, stop)
    try:
        with feeder.at_work():
            yield feeder
    except KeyboardInterrupt:  # the second, if there is anything to wait for
        wait = False
        raise
    finally:
        ending.set()
        feeder.cancel()
        pool.shutdown(wait)


def result_of(future: Any) -> Any:
    """A task's result; its errors in words for the person at the terminal."""
    try:
        return future.result()
    except (InputError, RunError, OSError):
        raise
    except CancelledError as error:
        raise RunError(f"the scheduler was lost; what is finished is kept, {same_again()} goes on") from error
    except Exception as error:
        raise RunError(
            f"a task failed: {type(error).__name__}: {error}; what is finished is kept, {same_again()} goes on"
        ) from error


def _fitting(client: "Client", need: dict[str, int]) -> int:
    """Workers that can take a task; 0 if the scheduler does not answer."""
    if client.status != "running":
        return 0
    ask = client.scheduler.identity
    try:  # not scheduler_info(), which waits without end for a scheduler that was stopped
        workers = client.sync(ask, n_workers=-1, callback_timeout=ANSWER_WITHIN)["workers"].values()
    except (OSError, TimeoutError):
        return 0
    return sum(all(worker["resources"].get(name, 0) >= amount for name, amount in need.items()) for worker in workers)
