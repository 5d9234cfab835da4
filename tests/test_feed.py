"""How tasks are given out, with a cluster that is made up: its workers do at once what they are asked."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT, SIGTERM
from threading import Event
from typing import Any

import numpy as np
import pytest

from gpuknn.engine.neighbors import Certificate, Neighbors
from gpuknn.errors import RunError
from gpuknn.jobs.exact import feed, merge
from gpuknn.jobs.exact.feed import Block, Feed
from gpuknn.jobs.exact.partial import find_partials, write_partial
from gpuknn.jobs.exact.shard import ShardDone
from gpuknn.jobs.exact.tree import FAN_IN, Tree
from gpuknn.workers import feed as workers_feed
from gpuknn.workers.feed import dask_feeder, thread_feeder
from gpuknn.workers.stop import is_to_stop

QUERIES = range(4)
SHARD, K = 10, 3
GPU: dict[str, Any] = {"resources": {"GPU": 1}}
PLAIN: dict[str, Any] = {"resources": {}}


class Future:
    def __init__(self, key: str, work: Callable[[], Any], answers: bool) -> None:
        self.key, self._work, self._answers = key, work, answers
        self.cancelled = False

    def add_done_callback(self, ended: Callable[["Future"], None]) -> None:
        self._ended = ended
        if self._answers:
            self.end()

    def end(self) -> None:
        self._ended(self)

    def done(self) -> bool:
        return self._answers

    def cancel(self) -> None:
        self.cancelled = True
        self.end()

    def result(self) -> Any:
        return self._work()


class Client:
    """Of a scheduler with these workers."""

    def __init__(self, *workers: dict[str, Any], answers: bool = True) -> None:
        self.workers, self.answers = list(workers), answers
        self.status, self.stopped = "running", False
        self.under_way, self.most_under_way = 0, 0
        self.submitted: list[str] = []
        self.before_task: Callable[[str], None] = lambda _: None
        self.future: type[Future] = Future

    def subscribe_topic(self, topic: str, hear: object) -> None:
        pass

    @property
    def scheduler(self) -> "Client":
        return self

    def identity(self) -> None:
        pass

    def sync(self, asked: object, n_workers: int, callback_timeout: float) -> dict[str, Any]:
        if self.stopped:
            raise TimeoutError
        return {"workers": dict(enumerate(self.workers))}

    def submit(self, task: Callable, *arguments: Any, key: str, **options: Any) -> Future:
        name = key.split("-")[0]
        assert key not in self.submitted
        assert (options.get("resources") == {"GPU": 1}) == (name == "scan")
        self.submitted.append(key)
        scans = name == "scan"
        self.under_way += scans
        self.most_under_way = max(self.most_under_way, self.under_way)

        def work() -> Any:
            self.before_task(key)
            self.under_way -= scans
            return task(*arguments)

        return self.future(key, work, self.answers)


def partial_of(
    _job: object, _state: object, queries: range, rows: range, floor: np.ndarray, folder: Path, _: object
) -> ShardDone:
    """Takes the place of `scan_shard`: rows are the nearer the higher their numbers are."""
    ids = np.tile(np.arange(rows.stop - 1, rows.stop - 1 - K, -1), (len(queries), 1))
    found = Neighbors(ids, (1000.0 - ids).astype(np.float32))
    write_partial(folder, queries, rows, found, Certificate("", 0, 0, 1), "made up")
    return ShardDone(queries, rows, found.dists[:, -1].astype(np.float64))


class Gpu:
    resources = GPU["resources"]


@pytest.fixture(autouse=True)
def no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "scan_shard", partial_of)
    monkeypatch.setattr(merge, "tell", lambda folder, event, **facts: TOLD.append({"event": event} | facts))
    TOLD.clear()


TOLD: list[dict[str, Any]] = []
"""What the tasks tell."""


def run(client: Client, folder: Path, shards: int, done: int = 0) -> tuple[list[range], list[dict[str, Any]]]:
    every = [range(SHARD * i, SHARD * i + SHARD) for i in range(shards)]
    for rows in every[:done]:
        partial_of(None, None, QUERIES, rows, np.full(4, np.inf), folder, None)
    heard: list[dict[str, Any]] = []
    blocks = {QUERIES: Block(np.full(4, np.inf), Tree(SHARD))}
    with dask_feeder(client, Gpu.resources, lambda: None) as feeder:
        it = Feed(feeder, None, "", Gpu(), folder, SHARD, blocks, heard.append)  # type: ignore[arg-type]
        parts = it.run({QUERIES: every[:done]}, [(QUERIES, rows) for rows in every[done:]])[QUERIES]
    sound, damaged = find_partials(folder, QUERIES)
    assert list(sound) == parts
    assert not damaged
    assert [row for part in parts for row in part] == list(range(SHARD * shards))
    return parts, heard


def test_two_shards_for_each_worker_that_can_take_them(tmp_path: Path) -> None:
    client = Client(GPU, PLAIN, PLAIN, GPU, PLAIN)
    parts, heard = run(client, tmp_path, 20)
    assert client.most_under_way == 4
    assert [len(part) for part in parts] == [80, 80, 10, 10, 10, 10]
    assert sum(event["rows"] for event in heard) == 200


def test_workers_that_join_late_are_given_work(tmp_path: Path) -> None:
    client = Client(GPU)

    def join(key: str) -> None:
        client.workers = [GPU] * min(5, len(client.submitted))

    client.before_task = join
    parts, _ = run(client, tmp_path, 40)
    assert client.most_under_way == 10
    assert len(parts) <= FAN_IN


def test_what_was_done_earlier_is_merged_too(tmp_path: Path) -> None:
    client = Client(GPU)
    parts, _ = run(client, tmp_path, 9, done=7)
    assert [len(part) for part in parts] == [80, 10]
    assert [key.split("-")[0] for key in client.submitted] == ["scan", "scan", "merge"]


@pytest.mark.parametrize("how", ["flip", "remove", "receipt"])
def test_parts_found_damaged_are_computed_again(how: str, tmp_path: Path) -> None:
    client = Client(GPU)
    hurt: list[Path] = []

    def damage(key: str) -> None:
        if key.startswith("merge") and not hurt:
            hurt.extend(sorted(tmp_path.glob("*.json" if how == "receipt" else "*.bin"))[2:4])
            for path in hurt:
                content = bytearray(path.read_bytes())
                content[5] ^= 1
                path.unlink() if how == "remove" else path.write_bytes(content)

    client.before_task = damage
    parts, _ = run(client, tmp_path, 10)
    assert sorted(map(len, parts)) == [10, 10, 80]
    assert [event["rows"] for event in TOLD if event["event"] == "damaged"] == [[20, 30], [30, 40]]
    assert sum(key.startswith("scan") for key in client.submitted) == 12


@pytest.mark.parametrize("lost", ["workers", "scheduler", "answer"])
def test_a_run_without_workers_gives_up(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_feed, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(workers_feed, "LOST_AFTER", 0.2)
    client = Client(PLAIN, answers=False)
    if lost == "scheduler":
        client.workers, client.status = [GPU], "connecting"
    if lost == "answer":
        client.workers, client.stopped = [GPU], True
    with pytest.raises(RunError, match="no scheduler or fitting worker was there"):
        run(client, tmp_path, 5)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("how", [SIGINT, SIGTERM])
@pytest.mark.parametrize("nth", [1, 4, 5], ids=["the first", "one amid", "the last"])
def test_an_interrupt_while_a_future_ends(nth: int, how: signal.Signals, tmp_path: Path) -> None:
    """Dask's futures end by themselves, in the thread that takes tasks."""
    ended: list[int] = []

    class Released(Future):
        """Of what its `__del__` raises Python says only that it is ignored."""

        def __del__(self) -> None:
            ended.append(0)
            if len(ended) == nth:
                os.kill(os.getpid(), how)

    client = Client(GPU)
    client.future = Released
    with pytest.raises(KeyboardInterrupt):
        run(client, tmp_path, 5)
    sound, _ = find_partials(tmp_path, QUERIES)
    assert nth <= len(sound) <= nth + 2, "those under way"


class UnderWay(Future):
    """Of a cluster where nothing ends by itself.  An interrupt comes when two tasks are given out."""

    given: list["UnderWay"]

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.given.append(self)

    def add_done_callback(self, ended: Callable[[Future], None]) -> None:
        super().add_done_callback(ended)
        if len(self.given) == 2:
            os.kill(os.getpid(), SIGINT)


@pytest.fixture
def given() -> Iterator[list[UnderWay]]:
    UnderWay.given = []
    yield UnderWay.given
    UnderWay.given = []


def run_five(folder: Path, heard: list[dict[str, Any]], future: type[UnderWay] = UnderWay) -> None:
    client = Client(GPU, answers=False)
    client.future = future
    blocks = {QUERIES: Block(np.full(4, np.inf), Tree(SHARD))}
    with dask_feeder(client, Gpu.resources, lambda: None) as feeder:
        it = Feed(feeder, None, "", Gpu(), folder, SHARD, blocks, heard.append)  # type: ignore[arg-type]
        it.run({QUERIES: []}, [(QUERIES, range(SHARD * i, SHARD * i + SHARD)) for i in range(5)])


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_waits_for_what_is_under_way(
    given: list[UnderWay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_to_stop(_: Client, tasks: list[str]) -> set[str]:
        assert tasks == [future.key for future in given]
        given[0].end()
        return {given[0].key}

    monkeypatch.setattr("gpuknn.workers.feed.ask_to_stop", ask_to_stop)
    heard: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        run_five(tmp_path, heard)
    assert [future.cancelled for future in given] == [False, True]
    assert list(find_partials(tmp_path, QUERIES)[0]) == [range(SHARD)]
    assert [event["event"] for event in heard] == ["said"]


@pytest.mark.usefixtures("handlers")
def test_what_had_ended_at_an_interrupt_is_waited_for_no_more(
    given: list[UnderWay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its news lie ready, before the interrupt's."""

    class Ended(UnderWay):
        def add_done_callback(self, ended: Callable[[Future], None]) -> None:
            ended(self)
            super().add_done_callback(ended)

        def done(self) -> bool:
            return True

    monkeypatch.setattr("gpuknn.workers.feed.ask_to_stop", lambda *_: set())
    with pytest.raises(KeyboardInterrupt):
        run_five(tmp_path, [], Ended)
    assert not any(future.cancelled for future in given)
    assert list(find_partials(tmp_path, QUERIES)[0]) == [range(SHARD), range(SHARD, 2 * SHARD)]


@pytest.mark.usefixtures("handlers")
def test_a_second_interrupt_waits_for_nothing(
    given: list[UnderWay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_to_stop(_: Client, tasks: list[str]) -> set[str]:
        os.kill(os.getpid(), SIGINT)
        return set(tasks)

    monkeypatch.setattr("gpuknn.workers.feed.ask_to_stop", ask_to_stop)
    with pytest.raises(KeyboardInterrupt):
        run_five(tmp_path, [])
    assert not any(future.cancelled for future in given)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_when_the_scheduler_is_lost(
    given: list[UnderWay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_to_stop(*_: object) -> set[str]:
        raise OSError("the scheduler does not answer")

    monkeypatch.setattr("gpuknn.workers.feed.ask_to_stop", ask_to_stop)
    with pytest.raises(KeyboardInterrupt):
        run_five(tmp_path, [])
    assert all(future.cancelled for future in given)


@pytest.mark.usefixtures("handlers")
def test_a_second_interrupt_does_not_wait_for_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_end, asked, ended = Event(), Event(), Event()

    def long(_job: object, _state: object, queries: range, rows: range, *_: object) -> ShardDone:
        os.kill(os.getpid(), SIGINT)
        while not is_to_stop():
            time.sleep(0.01)
        asked.set()
        os.kill(os.getpid(), SIGINT)
        let_end.wait(60)
        ended.set()
        return ShardDone(queries, rows[:0], np.full(len(queries), np.inf))

    monkeypatch.setattr(feed, "scan_shard", long)
    blocks = {QUERIES: Block(np.full(4, np.inf), Tree(SHARD))}
    try:
        with pytest.raises(KeyboardInterrupt), thread_feeder(1, lambda: None) as feeder:  # noqa: PT012
            it = Feed(feeder, None, "", Gpu(), tmp_path, SHARD, blocks, lambda _: None)  # type: ignore[arg-type]
            it.run({QUERIES: []}, [(QUERIES, range(SHARD))])
        assert asked.is_set()
        assert not ended.is_set(), "the thread is at work yet"
    finally:
        let_end.set()


def test_the_rest_of_a_shard_that_came_back_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Dask takes a task back and gives it out again while it stops."""
    short = [4, 0]

    def partial_of_some(*task: Any) -> ShardDone:
        job, state, queries, rows, *rest = task
        length = short.pop(0) if short else len(rows)
        if not length:
            return ShardDone(queries, rows[:0], np.full(len(queries), np.inf))
        return partial_of(job, state, queries, rows[:length], *rest)

    monkeypatch.setattr(feed, "scan_shard", partial_of_some)
    parts, heard = run(Client(GPU), tmp_path, 3)
    assert parts == [range(4), range(4, 10), range(10, 20), range(20, 30)]
    assert sum(event["rows"] for event in heard) == 30
