"""`gpuknn.exact` with the caller's own Dask client: the command's bytes, and all is left as it was."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import gpuknn
from gpuknn.cli.main import main
from gpuknn.progress import Event

ROWS, QUERIES, DIM, K = 40_000, 500, 64, 20
SHARD = 1_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database, queries, and `gold.h5` as the command writes it."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.save(folder / "db.npy", rng.standard_normal((ROWS, DIM)).astype(np.float16))
    np.save(folder / "q.npy", rng.standard_normal((QUERIES, DIM)).astype(np.float32))
    files = [str(folder / name) for name in ("db.npy", "q.npy", "gold.h5")]
    assert main(["exact", *files[:2], "-k", str(K), "-o", files[2], "--quiet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def cluster(**how: Any) -> Iterator[Client]:
    pages: dict[str, Any] = {
        "dashboard_address": "127.0.0.1:0",
        "worker_dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
    }
    pages |= {"host": None} if how.get("processes") is False else {}
    with LocalCluster(**pages, **how) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def workers() -> Iterator[Client]:
    with cluster(processes=True, n_workers=2, threads_per_worker=1) as client:
        yield client


def state_of(client: Client) -> tuple[object, ...]:
    """What a run could leave behind."""

    def on_scheduler(dask_scheduler: Any) -> tuple[object, ...]:
        topics = {
            name: len(topic.subscribers) for name, topic in dask_scheduler._broker._topics.items() if topic.subscribers
        }
        pages = len(dask_scheduler.http_application.applications)
        workers = sorted((address, ws.status.name, ws.nthreads) for address, ws in dask_scheduler.workers.items())
        return sorted(map(str, dask_scheduler.plugins)), pages, topics, sorted(dask_scheduler.tasks), workers

    return client.run_on_scheduler(on_scheduler), repr(dask.config.config), len(client.futures)


def settled(client: Client, before: tuple[object, ...]) -> None:
    """The scheduler's state is as it was `before`: what a client lets go of reaches it a little later."""
    deadline = time.monotonic() + 30
    while state_of(client) != before:
        assert time.monotonic() < deadline, (before, state_of(client))
        time.sleep(0.1)


def exact(data: Path, client: Client | None, **options: Any) -> gpuknn.Outcome:
    files = data / "db.npy", data / "q.npy", "gold.h5"
    return gpuknn.exact(*files, k=K, client=client, **options)


def assert_right(data: Path) -> None:
    ours, theirs = gpuknn.read_gold("gold.h5"), gpuknn.read_gold(data / "gold.h5")
    assert ours == theirs
    assert not Path("gold.h5.run").exists()


KINDS: dict[str, dict[str, Any]] = {
    "threads": {"processes": False},
    "two in one process": {"processes": False, "n_workers": 2, "threads_per_worker": 1},
    "one with threads": {"processes": True, "n_workers": 1, "threads_per_worker": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_and_its_cluster_are_left_as_they_were(kind: str, data: Path) -> None:
    with cluster(**KINDS[kind]) as client:
        before = state_of(client)
        outcome = exact(data, client, shard_rows=SHARD * 4)
        assert outcome.shards == 10
        settled(client, before)
        assert client.submit(sum, [1, 2]).result() == 3
    assert_right(data)


def test_a_page_that_was_there_stays(data: Path, workers: Client) -> None:
    address = workers.scheduler_info()["address"]
    words = [
        "exact",
        str(data / "db.npy"),
        str(data / "q.npy"),
        "-o",
        "x.h5",
        "-k",
        "3",
        "--cluster",
        address,
        "--quiet",
    ]
    assert main(words) == 0
    before = state_of(workers)
    assert "gpuknn" in str(before)
    exact(data, workers)
    settled(workers, before)
    workers.run_on_scheduler(lambda dask_scheduler: dask_scheduler.remove_plugin("gpuknn"))


def test_an_adaptive_cluster_without_workers(data: Path) -> None:
    with cluster(processes=False, n_workers=0) as client:
        client.cluster.adapt(minimum=0, maximum=2)
        assert exact(data, client, shard_rows=SHARD * 10).shards == 4
    assert_right(data)


def test_a_jobqueue_cluster(data: Path) -> None:
    local = pytest.importorskip("dask_jobqueue.local")
    options = {"scheduler_options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    with local.LocalCluster(cores=1, memory="2GB", **options) as jobs, Client(jobs) as client:
        jobs.scale(2)
        client.wait_for_workers(2, timeout=60)
        exact(data, client)
    assert_right(data)


SCRIPT = """
import sys, time
import gpuknn
from distributed import Client

address, database, queries = sys.argv[1:]
client = Client(address)
try:
    gpuknn.exact(database, queries, "gold.h5", k=20, client=client, shard_rows=1000)
except KeyboardInterrupt:
    began = time.monotonic()
    while any(client.processing().values()):  # a thread is not stopped at once
        assert time.monotonic() - began < 30
        time.sleep(0.1)
    assert client.submit(sum, [1, 2]).result() == 3
    print("usable")
"""


def begun(script: list[str]) -> "subprocess.Popen[str]":
    """A run with many shards, of which at least two are finished and more are to come."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(Path().glob("gold.h5.run/*/*-*.json"))) < 2:
        assert process.poll() is None, "finished before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=60)


def interrupt(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "usable\n"


@pytest.mark.parametrize("end", [kill, interrupt])
@pytest.mark.parametrize("then", ["call", "command"])
def test_a_script_that_was_ended_is_gone_on_with(
    end: Callable[["subprocess.Popen[str]"], None],
    then: str,
    data: Path,
    workers: Client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [str(data / "db.npy"), str(data / "q.npy")]
    end(begun([workers.scheduler_info()["address"], *files]))
    assert not Path("gold.h5").exists()
    assert main(["runs"]) == 0
    told = capsys.readouterr().out
    assert f"gpuknn exact {' '.join(files)} --output gold.h5 -k 20 --metric cosine --shard-rows 1000" in told
    if then == "call":
        assert exact(data, workers).resumed_rows >= 2 * SHARD
    else:
        assert main(["runs", "--resume", "gold.h5.run"]) == 0
        assert f"{QUERIES} x {K} neighbours" in capsys.readouterr().out
    assert_right(data)
    assert workers.submit(sum, [1, 2]).result() == 3


def test_an_interrupt_in_the_callers_process(data: Path) -> None:
    """As in a notebook: the client lives on, and workers stop what nobody waits for.

    Whatever the caller's function raises is raised in the caller's thread, not in one of Dask's.
    """
    with cluster(processes=False) as client:
        before = state_of(client)

        def told(event: Event) -> None:
            assert current_thread() is main_thread()
            if event["event"] == "progress" and event["done"] >= 2 * SHARD:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            exact(data, client, shard_rows=SHARD, progress=told)
        settled(client, before)
        assert exact(data, client, shard_rows=SHARD).resumed_rows >= 2 * SHARD
        settled(client, before)
    assert_right(data)


def test_clients_that_cannot_be_used(data: Path, workers: Client) -> None:
    address = workers.scheduler_info()["address"]
    with pytest.raises(InputError := gpuknn.InputError, match="client: is a str, not a distributed"):
        exact(data, address)
    with pytest.raises(InputError, match="client, cluster: give one of the two"):
        exact(data, workers, cluster=address)
    with pytest.raises(InputError, match="workers: the cluster of that client has the workers that it has"):
        exact(data, workers, workers=2)
    closed = Client(address, set_as_default=False)
    closed.close()
    with pytest.raises(InputError, match="client: is closed"):
        exact(data, closed)

    async def within() -> None:
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(InputError, match="client: is asynchronous"):
                exact(data, client)

    asyncio.run(within())
    assert not Path("gold.h5.run").exists()
