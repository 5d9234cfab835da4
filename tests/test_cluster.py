"""Workers that are there already: a scheduler and workers in other processes, in another folder."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from gpuknn.cli.main import main
from gpuknn.exact.cpu import CpuDevice
from gpuknn.gold import read_gold
from gpuknn.jobs import cluster
from gpuknn.jobs.workers import Workers

DASK = [sys.executable, "-m", "dask"]
ON_LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scheduler's file."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    file = elsewhere / "scheduler.json"
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--dashboard-address",
        "127.0.0.1:0",
        "--scheduler-file",
        str(file),
    ]
    process = subprocess.Popen([*DASK, "scheduler", *options], cwd=elsewhere, stderr=subprocess.DEVNULL)
    try:
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield file
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def workers(scheduler: Path) -> Iterator[None]:
    """Two workers of two threads each."""
    options = [
        "--scheduler-file",
        str(scheduler),
        "--nthreads",
        "2",
        "--host",
        "127.0.0.1",
        "--dashboard-address",
        "127.0.0.1:0",
    ]
    command = [*DASK, "worker", *options, "--local-directory", str(scheduler.parent)]
    processes = [subprocess.Popen(command, cwd=scheduler.parent, stderr=subprocess.DEVNULL) for _ in range(2)]
    yield
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((900, 16)).astype(np.float16)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:30].astype(np.float32))
    return ["exact", "db.npy", "q.npy", "-k", "9"]


@pytest.mark.usefixtures("workers")
def test_the_same_bytes_from_workers_elsewhere(
    files: list[str], scheduler: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "-o", "here.h5"]) == 0
    assert main([*files, "-o", "there.h5", "--cluster", str(scheduler), "--shard-rows", "70"]) == 0
    here, there = read_gold(Path("here.h5")), read_gold(Path("there.h5"))
    assert np.array_equal(here.ids, there.ids)
    assert np.array_equal(here.dists, there.dists)
    assert sorted(p.name for p in Path().iterdir()) == ["db.npy", "here.h5", "q.npy", "there.h5"]
    assert main([*files, "-o", "x.h5", "--cluster", str(scheduler), "--workers", "2"]) == 2
    assert "the workers that it has" in capsys.readouterr().err


def test_who_is_not_there_is_said(
    files: list[str], scheduler: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*files, "-o", "x.h5", "--cluster", "tcp://127.0.0.1:9"]) == 2
    assert "no Dask scheduler answers there" in capsys.readouterr().err
    assert main([*files, "-o", "x.h5", "--cluster", "nowhere.json"]) == 2
    assert "nowhere.json: there is no such file; start a scheduler" in capsys.readouterr().err
    monkeypatch.setattr(cluster, "NO_WORKERS_AFTER", 0.5)
    assert main([*files, "-o", "x.h5", "--cluster", str(scheduler), "--device", "cuda"]) == 2
    assert "none that --device cuda asks for; start some" in capsys.readouterr().err


def test_nothing_listens_beyond_this_machine() -> None:
    with cluster.local_cluster(Workers(1, 1, CpuDevice(1))):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
