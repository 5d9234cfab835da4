"""`gpuknn.exact` with the caller's own Dask client: the command's bytes, and all is left as it was."""

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import dask
import numpy as np
import pytest
import threadpoolctl
from distributed import Client, LocalCluster

import gpuknn
from gpuknn.cli.main import main
from gpuknn.progress import Event
from gpuknn.workers.crew import hire

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
    with LocalCluster(**pages | how) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """A cluster in this process, which has an address for others, too."""
    with cluster(processes=False, host="127.0.0.1", protocol="tcp://") as client:
        yield client


@pytest.fixture(scope="module")
def workers() -> Iterator[Client]:
    with cluster(processes=True, n_workers=2, threads_per_worker=1) as client:
        yield client


def state_of(client: Client) -> tuple[object, ...]:
    """What a run could leave behind."""

    def on_scheduler(dask_scheduler: Any) -> tuple[object, ...]:
        topics = {
            name: len(topic.subscribers)
            for name, topic in dask_scheduler._broker._topics.items()
            if topic.subscribers or name.startswith("gpuknn")
        }
        pages = len(dask_scheduler.http_application.applications)
        workers = sorted((address, ws.status.name, ws.nthreads) for address, ws in dask_scheduler.workers.items())
        return sorted(map(str, dask_scheduler.plugins)), pages, topics, sorted(dask_scheduler.tasks), workers

    return client.run_on_scheduler(on_scheduler), config(), len(client.futures), levels()


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
    "processes": {"processes": True, "n_workers": 1, "threads_per_worker": 2},
}


@pytest.mark.parametrize("kind", ["threads", "two in one process", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_client_and_its_cluster_are_left_as_they_were(kind: str, data: Path) -> None:
    with cluster(**KINDS[kind]) as client:
        before = state_of(client)
        outcome = exact(data, client, shard_rows=SHARD * 4)
        assert outcome.shards == 10
        settled(client, before)
        assert client.submit(sum, [1, 2]).result() == 3
    assert_right(data)


def test_a_page_that_was_there_stays(data: Path, threads: Client) -> None:
    address = threads.scheduler_info()["address"]
    files = [str(data / "db.npy"), str(data / "q.npy")]
    assert main(["exact", *files, "-o", "x.h5", "-k", "3", "--cluster", address, "--quiet"]) == 0
    before = state_of(threads)
    assert "gpuknn" in str(before)
    exact(data, threads)
    settled(threads, before)
    threads.run_on_scheduler(lambda dask_scheduler: dask_scheduler.remove_plugin("gpuknn"))


def test_an_adaptive_cluster_without_workers(data: Path) -> None:
    with cluster(processes=False, n_workers=0) as client:
        client.cluster.adapt(minimum=0, maximum=2)
        assert exact(data, client, shard_rows=SHARD * 10).shards == 4
    assert_right(data)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("end", "then"), [(kill, "command"), (interrupt, "call")])
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
    assert f"gpuknn exact {' '.join(files)} --output {Path('gold.h5').absolute()} -k 20 --shard-rows 1000" in told
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


def test_clients_that_cannot_be_used(data: Path, threads: Client) -> None:
    address = threads.scheduler_info()["address"]
    with pytest.raises(InputError := gpuknn.InputError, match="client: is a str, not a distributed"):
        exact(data, address)
    with pytest.raises(InputError, match="client, cluster: give one of the two"):
        exact(data, threads, cluster=address)
    with pytest.raises(InputError, match="workers: the cluster of that client has the workers that it has"):
        exact(data, threads, workers=2)
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


def test_words_for_a_client_without_workers(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuknn.workers.cluster.LENT_WAIT", 0.5)
    told: list[Event] = []
    words = r'^client="inproc.*1 worker.* were waited for.*client.restart'
    with cluster(processes=False, n_workers=0) as client, pytest.raises(gpuknn.InputError, match=words):
        exact(data, client, progress=told.append)
    assert "waiting for workers" in told[0]["line"]


def test_memory_that_workers_may_take(data: Path) -> None:
    with cluster(processes=False, n_workers=2, threads_per_worker=1, memory_limit="3GiB") as client:
        crew = hire(client=client)
        assert crew.workers.memory == 3 * 2**29
        assert crew.lent
        assert not crew.local
    with cluster(processes=False, n_workers=1, memory_limit=0) as client:
        assert hire(client=client).workers.memory is None


@pytest.mark.parametrize("closed", ["client", "cluster"])
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_client_that_is_closed_in_mid_run(closed: str, processes: bool, data: Path) -> None:
    with LocalCluster(processes=processes, n_workers=1, dashboard_address="127.0.0.1:0") as there:
        client = Client(there, set_as_default=False)

        def close(event: Event) -> None:
            if event["event"] == "shard":
                (client if closed == "client" else there).close()

        with pytest.raises(gpuknn.RunError, match=r"the same call goes on"):
            exact(data, client, shard_rows=SHARD, progress=close)
        if client.status == "running":
            client.close()
    assert exact(data, None, shard_rows=SHARD).resumed_rows >= SHARD
    assert_right(data)


def config() -> str:
    """Dask's settings, but for a list to which each scheduler without Bokeh adds a line."""
    with dask.config.set({"distributed.scheduler.http.routes": []}):
        return repr(dask.config.config)


def levels() -> list[int]:
    return [logging.getLogger(name).level for name in ("distributed", "distributed.client", "distributed.scheduler")]


@pytest.mark.parametrize("lent", [False, True])
def test_runs_at_once_leave_the_process_as_it_was(lent: bool, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def run(number: int) -> gpuknn.Outcome:
        time.sleep(number / 5)
        files = data / "db.npy", data / "q.npy", f"gold{number}.h5"
        return gpuknn.exact(*files, k=K, client=client, shard_rows=SHARD * 4)

    before = config(), levels(), threads_of_blas()
    client = None
    with ExitStack() as stack:
        if lent:
            client = stack.enter_context(cluster(processes=False))
        with ThreadPoolExecutor(2) as pool:
            for outcome in pool.map(run, range(2)):
                assert gpuknn.compare(outcome.output, data / "gold.h5").equal
    assert (config(), levels(), threads_of_blas()) == before
    assert "INFO" not in capfd.readouterr().err


def threads_of_blas() -> list[int]:
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


def test_numbers_of_numpy_and_wrong_ones(data: Path) -> None:
    files = data / "db.npy", data / "q.npy", "gold.h5"
    gpuknn.exact(*files, k=np.int64(K), shard_rows=np.int64(9_999), dists=np.dtype("float32"))  # type: ignore[arg-type]
    assert_right(data)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"k": "3"}, "k"),
        ({"k": True}, "k"),
        ({"workers": 1.5}, "workers"),
        ({"threads": "2"}, "threads"),
        ({"shard_rows": 1.5}, "shard_rows"),
    ]
    for options, name in wrong:
        with pytest.raises(gpuknn.InputError, match=f"^{name} ?= ?.*: must be a whole number"):
            gpuknn.exact(*files, **({"k": K} | options))
    with pytest.raises(TypeError, match=r"exact\(\) got an unexpected keyword argument 'n_jobs'"):
        gpuknn.exact(*files, n_jobs=2)  # type: ignore[call-arg]
    assert [path.name for path in Path().iterdir()] == ["gold.h5"]


def test_the_command_that_goes_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It does not throw away what is finished, and finds the files from anywhere."""

    def stop(event: Event) -> None:
        if event["event"] == "shard":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exact(data, None, shard_rows=SHARD, fresh=True, dists="float64", progress=stop)
    main(["runs"])
    told = capsys.readouterr().out
    assert "--dists float64 --shard-rows 1000\n" in told
    assert "--fresh" not in told


def test_a_plan_in_another_working_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    plan = gpuknn.plan_exact("db.npy", "q.npy", tmp_path / "gold.h5", k=K)
    monkeypatch.chdir(tmp_path)
    np.save("db.npy", np.zeros((ROWS, DIM), np.float16))
    plan.run()
    assert_right(data)
