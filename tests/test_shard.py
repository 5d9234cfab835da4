"""What is on disk of a shard, however it ends."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import numpy as np
import pytest

from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.metric import Metric
from gpuknn.jobs.exact import shard
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.merge import merge_some
from gpuknn.jobs.exact.partial import find_partial, find_partials
from gpuknn.vectors import open_vectors
from tests import oracle

ROWS, QUERIES, EPOCH, K = 200, 7, 32, 5
SHARD = range(40, 190)

pytestmark = pytest.mark.usefixtures("small_pieces")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(shard, "tell", lambda *_, **__: None)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "db.npy", rng.integers(-3, 4, (ROWS, 6)).astype(np.float32))
    np.save(tmp_path / "q.npy", rng.integers(-3, 4, (QUERIES, 6)).astype(np.float32))
    rows, queries = (open_vectors(tmp_path / name) for name in ("db.npy", "q.npy"))
    return Job(rows, queries, K, Metric.L2, "float32")


def scan(job: Job, folder: Path, rows: range = SHARD) -> shard.ShardDone:
    task = range(QUERIES), rows, np.full(QUERIES, np.inf), folder, CpuDevice(1)
    return shard.scan_shard(job, job.file_state(), *task)


def stop_at(monkeypatch: pytest.MonkeyPatch, look: int, how: type[Exception] | None = None) -> None:
    """Have the task end when it looks for that time whether it is to."""
    looks: list[int] = []

    def is_to_stop() -> bool:
        looks.append(0)
        if how and len(looks) == look:
            raise how
        return len(looks) == look

    monkeypatch.setattr(shard, "is_to_stop", is_to_stop)


def assert_right(job: Job, folder: Path, *parts: range) -> None:
    """The partial results on disk are these, and the right ones."""
    assert list(find_partials(folder, range(QUERIES))[0]) == list(parts)
    found = merge_some([find_partial(folder, range(QUERIES), part) for part in parts], range(QUERIES))
    rows = job.database[parts[0].start : parts[-1].stop]
    ids, dists = oracle.knn(rows, job.queries[:], K, "l2", "float32")
    assert np.array_equal(found.ids, ids + parts[0].start)
    assert np.array_equal(found.dists, dists)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_shard_that_is_stopped_keeps_what_it_has(
    epochs: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 1 + epochs)  # the first look is before it begins
    done = scan(job, tmp_path)
    assert done.rows == SHARD[: EPOCH * epochs]
    assert_right(job, tmp_path, done.rows)
    rest = scan(job, tmp_path, SHARD[EPOCH * epochs :])
    assert_right(job, tmp_path, done.rows, rest.rows)


def test_a_shard_that_is_stopped_before_it_begins(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 1)
    assert len(scan(job, tmp_path).rows) == 0
    assert not list(tmp_path.glob("*.bin"))


def test_a_long_shard_is_saved_as_it_goes(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.Kept, "is_old", lambda _: True)
    stop_at(monkeypatch, 4, how=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        scan(job, tmp_path)
    assert len(list(tmp_path.glob("*.bin"))) == 1, "the shorter one was removed"
    assert_right(job, tmp_path, SHARD[: 2 * EPOCH])


def test_when_a_shard_is_saved(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not oftener than every so many seconds, and not if that takes a large share of the time."""
    now, cost = 0.0, 0.0

    def write_partial(*_: Any) -> None:
        nonlocal now
        now += cost

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(shard, "write_partial", write_partial)
    kept = shard.Kept(job, job.file_state(), range(QUERIES), SHARD, tmp_path, "cpu")
    for length, (until, seconds) in enumerate([(15, 0.5), (15, 10), (200, 0.5), (15, 0.5)]):
        now += until
        assert not kept.is_old()
        now += 1
        assert kept.is_old()
        cost = seconds
        kept.keep(length + 1, *([None] * 2))  # type: ignore[arg-type]


def test_two_tasks_of_one_process_take_turns(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each uses all cores, and the memory that the plan counts."""
    meeting = Barrier(2)
    met: list[bool] = []

    def is_to_stop() -> bool:
        try:
            meeting.wait(0.2)
            met.append(True)
        except BrokenBarrierError:
            meeting.reset()
        return False

    monkeypatch.setattr(shard, "is_to_stop", is_to_stop)
    parts = range(40, 60), range(60, 80)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rows: scan(job, tmp_path, rows), parts))
    assert not met
    assert_right(job, tmp_path, *parts)
