"""Keeping the workers fed: a sliding window of shards, and merges as soon as there is something to merge.

Never all shards at once: when a worker dies, Dask blames every task that was assigned to it, also those that it had not
begun, and gives up on a task that was blamed often enough.  So that a worker's death blames no others, and each new
task carries the newest floor, and workers that join late find something to do.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from distributed import Client

from gpuknn.errors import InputError, RunError
from gpuknn.jobs.events import Event, listen
from gpuknn.jobs.exact.merge import Tree, merge_partials
from gpuknn.jobs.exact.plan import Job, cut
from gpuknn.jobs.exact.shard import scan_shard
from gpuknn.storage.lock import Held
from gpuknn.workers.workers import LOOK_EVERY, LOST_AFTER, WINDOW, Workers

ANSWER_WITHIN = 10.0
"""Seconds for the scheduler to tell its workers."""


@dataclass
class Block:
    """What is known of one block of queries."""

    floor: np.ndarray
    """(nq,) float64: distances that the k-th neighbours are known not to exceed."""
    tree: Tree


@dataclass(frozen=True)
class Merge:
    """A task under way: parts of a block of queries to be merged."""

    queries: range
    parts: list[range]


class Feed:
    """The tasks of one run, given to a cluster's workers."""

    def __init__(
        self,
        client: Client,
        job: Job,
        state: str,
        workers: Workers,
        folder: Path,
        shard_rows: int,
        blocks: dict[range, Block],
        held: Held,
        heard: Callable[[Event], None],
    ) -> None:
        self._client, self._job, self._state, self._workers, self._folder = client, job, state, workers, folder
        self._shard_rows, self._blocks, self._held = shard_rows, blocks, held
        self._heard = heard
        self._waiting: deque[tuple[range, range]] = deque()
        self._running: dict[Any, Merge | None] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._run = uuid.uuid4().hex[:8]
        self._numbers = count()

    def run(self, done: dict[range, list[range]], shards: list[tuple[range, range]]) -> dict[range, list[range]]:
        """Bring all shards (queries, rows) to the run directory, which holds parts of each block that are `done`.

        Returns the parts that it holds then, in order, which make up all rows.  Raises RunError where that is
        impossible for now, InputError where the rows are found wanting.
        """
        self._waiting.extend(shards)
        listen(self._client, self._folder, self._heard)
        for queries, parts in done.items():
            for part in parts:
                self._finish(queries, part)
        self._fill()
        while self._running or self._merge_rest():
            future = self._next()
            merge = self._running.pop(future)
            result = _result(future)
            if merge is None:
                self._blocks[result.queries].floor = np.minimum(self._blocks[result.queries].floor, result.farthest)
                # The worker's own word may come after the client has gone.
                shard = {"queries": result.queries.start, "shard": result.rows.start, "rows": len(result.rows)}
                self._heard({"event": "progress"} | shard)
                self._finish(result.queries, result.rows)
            elif isinstance(result, list):
                self._recompute(merge, result)
            else:
                self._blocks[merge.queries].floor = np.minimum(self._blocks[merge.queries].floor, result)
                self._finish(merge.queries, range(merge.parts[0].start, merge.parts[-1].stop))
            self._fill()
        return {queries: block.tree.parts() for queries, block in self._blocks.items()}

    def _fill(self) -> None:
        """Give out shards until the window is full."""
        scans = sum(merge is None for merge in self._running.values())
        for _ in range(min(WINDOW * max(1, self._fitting()) - scans, len(self._waiting))):
            queries, rows = self._waiting.popleft()
            task = self._job, self._state, queries, rows, self._blocks[queries].floor, self._folder
            options = {"retries": 1, "resources": self._workers.need}
            self._submit(None, "scan", queries, rows, scan_shard, *task, self._workers.device, **options)

    def _finish(self, queries: range, part: range) -> None:
        """A part is in the run directory: merge it with its neighbours, if there are enough."""
        if parts := self._blocks[queries].tree.add(part):
            self._merge(queries, parts)

    def _merge_rest(self) -> bool:
        """Merge what the tree has left, on all workers at once: the answer is written by this process alone."""
        for queries, block in self._blocks.items():
            for parts in block.tree.take_rest():
                self._merge(queries, parts)
        return bool(self._running)

    def _merge(self, queries: range, parts: list[range]) -> None:
        # Before shards that wait: the floors become lower, and fewer rows pass.
        task = self._folder, queries, parts
        self._submit(Merge(queries, parts), "merge", queries, parts[0], merge_partials, *task, priority=1, retries=1)

    def _recompute(self, merge: Merge, lost: list[range]) -> None:
        """Parts were found damaged as they were to be merged."""
        for part in lost:
            shards = cut(part.stop, [range(part.start)], self._shard_rows)
            self._waiting.extendleft((merge.queries, rows) for rows in reversed(shards))
        for part in merge.parts:
            if part not in lost:
                self._finish(merge.queries, part)

    def _submit(self, merge: Merge | None, name: str, queries: range, rows: range, *task: Any, **options: Any) -> None:
        # Numbered, because a shard may be submitted again while the scheduler still knows its earlier result.
        key = f"{name}-{self._run}-q{queries.start}-r{rows.start}-{next(self._numbers)}"
        future = self._client.submit(*task, key=key, **options)
        self._running[future] = merge
        future.add_done_callback(self._ended.put)

    def _next(self) -> Any:
        """The next task that has ended."""
        seen = time.monotonic()
        while True:
            self._held.check()
            try:
                return self._ended.get(timeout=LOOK_EVERY)
            except Empty:
                if self._client.status == "running" and self._fitting():
                    seen = time.monotonic()
                elif time.monotonic() - seen > LOST_AFTER:
                    raise RunError(
                        f"no scheduler or fitting worker was there for {LOST_AFTER:.0f} s; finished shards are kept, "
                        "the same command goes on"
                    ) from None

    def _fitting(self) -> int:
        """Workers that can take a shard."""
        ask = self._client.scheduler.identity
        try:  # not scheduler_info(), which waits without end for a scheduler that was stopped
            workers = self._client.sync(ask, n_workers=-1, callback_timeout=ANSWER_WITHIN)["workers"].values()
        except (OSError, TimeoutError):
            return 0
        need = self._workers.need.items()
        return sum(all(worker["resources"].get(name, 0) >= amount for name, amount in need) for worker in workers)


def _result(future: Any) -> Any:
    """A task's result; its errors in words for the person at the terminal."""
    try:
        return future.result()
    except (InputError, RunError):
        raise
    except CancelledError as error:
        raise RunError("the scheduler was lost; finished shards are kept, the same command goes on") from error
    except Exception as error:
        raise RunError(
            f"a shard failed: {type(error).__name__}: {error}; finished shards are kept, the same command goes on"
        ) from error
