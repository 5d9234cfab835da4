"""The order of a run's tasks: shards in order, and merges as soon as there is something to merge."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuknn.engine.device import Device
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.merge import merge_partials
from gpuknn.jobs.exact.plan import cut
from gpuknn.jobs.exact.shard import scan_shard
from gpuknn.jobs.exact.tree import Tree
from gpuknn.progress import Event
from gpuknn.workers.feed import Feeder, result_of

SAVING = "interrupted: saving what is under way (a second Ctrl-C stops at once)"


@dataclass
class Block:
    """What is known of one block of queries."""

    floor: np.ndarray
    """(nq,) float64: distances that the k-th neighbours are known not to exceed."""
    tree: Tree


@dataclass(frozen=True)
class Scan:
    """A task under way: rows to be searched for a block of queries."""

    queries: range
    rows: range


@dataclass(frozen=True)
class Merge:
    """A task under way: parts of a block of queries to be merged."""

    queries: range
    parts: list[range]


class Feed:
    """The tasks of one run."""

    def __init__(
        self,
        feeder: Feeder,
        job: Job,
        state: str,
        device: Device,
        folder: Path,
        shard_rows: int,
        blocks: dict[range, Block],
        heard: Callable[[Event], None],
    ) -> None:
        self._feeder, self._job, self._state, self._device, self._folder = feeder, job, state, device, folder
        self._shard_rows, self._blocks, self._heard = shard_rows, blocks, heard
        self._waiting: deque[tuple[range, range]] = deque()

    def run(self, done: dict[range, list[range]], shards: list[tuple[range, range]]) -> dict[range, list[range]]:
        """Bring all shards (queries, rows) to `folder`, which holds parts of each block that are `done`.

        Returns the parts that it holds then, in order, which make up all rows.  Raises RunError if that is impossible
        for now, InputError if the rows are found wanting.  At an interrupt the shards under way are brought to `folder`
        as far as they are.
        """
        self._waiting.extend(shards)
        for queries, parts in done.items():
            for part in parts:
                self._finish(queries, part)
        self._fill()
        try:
            while len(self._feeder) or self._merge_rest():
                task, future = self._feeder.take()
                self._take_in(task, result_of(future))
                self._fill()
        except KeyboardInterrupt:
            self._stop()
            raise
        return {queries: block.tree.parts() for queries, block in self._blocks.items()}

    def _take_in(self, task: "Scan | Merge", result: Any) -> None:
        """What has come of a task."""
        if isinstance(task, Scan):
            done: range = result.rows
            # The worker's own word may come after the client has gone.
            self._heard({"event": "progress", "queries": task.queries.start, "shard": done.start, "rows": len(done)})
            if done:
                self._lower(task.queries, result.farthest)
                self._finish(task.queries, done)
            if rest := task.rows[len(done) :]:  # Dask had taken the task back, and given it out once more
                self._waiting.appendleft((task.queries, rest))
        elif isinstance(result, list):
            self._recompute(task, result)
        else:
            self._lower(task.queries, result)
            self._finish(task.queries, range(task.parts[0].start, task.parts[-1].stop))

    def _stop(self) -> None:
        """Have what is under way saved, and wait for it."""
        if len(self._feeder):
            self._heard({"event": "said", "line": SAVING})
        self._feeder.stop()
        while len(self._feeder):
            _, future = self._feeder.take()
            with suppress(Exception):  # the interrupt is told, and what is kept
                result_of(future)

    def _fill(self) -> None:
        """Give out shards until the window is full."""
        scans = sum(isinstance(task, Scan) for task in self._feeder.tasks())
        for _ in range(min(self._feeder.room() - scans, len(self._waiting))):
            queries, rows = self._waiting.popleft()
            task = self._job, self._state, queries, rows, self._blocks[queries].floor, self._folder, self._device
            name = f"scan-q{queries.start}-r{rows.start}"
            self._feeder.give(Scan(queries, rows), scan_shard, *task, name=name, resources=self._device.resources)

    def _lower(self, queries: range, farthest: np.ndarray) -> None:
        """The k-th neighbours are known not to be farther than this."""
        block = self._blocks[queries]
        block.floor = np.minimum(block.floor, farthest)

    def _finish(self, queries: range, part: range) -> None:
        """A part is in the record: merge it with its neighbours, if there are enough."""
        if parts := self._blocks[queries].tree.add(part):
            self._merge(queries, parts)

    def _merge_rest(self) -> bool:
        """Merge what the tree has left, on all workers at once: the answer is written by this process alone."""
        for queries, block in self._blocks.items():
            for parts in block.tree.take_rest():
                self._merge(queries, parts)
        return bool(len(self._feeder))

    def _merge(self, queries: range, parts: list[range]) -> None:
        # Before shards that wait: the floors become lower, and fewer rows pass.
        name = f"merge-q{queries.start}-r{parts[0].start}"
        task = self._folder, queries, parts
        self._feeder.give(Merge(queries, parts), merge_partials, *task, name=name, priority=1)

    def _recompute(self, merge: Merge, lost: list[range]) -> None:
        """Parts were found damaged as they were to be merged."""
        for part in lost:
            shards = cut(part.stop, [range(part.start)], self._shard_rows)
            self._waiting.extendleft((merge.queries, rows) for rows in reversed(shards))
        for part in merge.parts:
            if part not in lost:
                self._finish(merge.queries, part)
