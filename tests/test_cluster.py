"""Workers that are there already: a scheduler and workers in other processes, in another folder."""

import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from gpuknn.cli.main import main
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.gold import read_gold
from gpuknn.workers import cluster
from gpuknn.workers.cluster_file import Running, Slurm, Ssh, read_cluster
from gpuknn.workers.launch import slurm_cluster
from gpuknn.workers.workers import Workers
from tests.answers import dists_of

CONFIGS = Path(__file__).parents[1] / "configs"
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
def start_worker(scheduler: Path) -> Iterator[Callable[..., None]]:
    """Starts a worker of two threads, and does not wait for it."""
    command = [*DASK, "worker", "--scheduler-file", str(scheduler), "--nthreads", "2", "--memory-limit", "0"]
    command += [*ON_LOOPBACK, "--local-directory", str(scheduler.parent)]
    processes: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> None:
        processes.append(subprocess.Popen([*command, *options], cwd=scheduler.parent, stderr=subprocess.DEVNULL))

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


@pytest.fixture
def workers(start_worker: Callable[..., None]) -> None:
    start_worker()
    start_worker()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((900, 16)).astype(np.float16)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:30].astype(np.float32))
    return ["exact", "db.npy", "q.npy", "-k", "9"]


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
def test_the_same_bytes_from_workers_elsewhere(
    files: list[str], scheduler: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "-o", "here.h5"]) == 0
    assert main([*files, "-o", "there.h5", "--cluster", str(scheduler), "--shard-rows", "70"]) == 0
    here, there = read_gold(Path("here.h5")), read_gold(Path("there.h5"))
    assert np.array_equal(here.ids, there.ids)
    assert np.array_equal(dists_of(here), dists_of(there))
    assert sorted(p.name for p in Path().iterdir()) == ["db.npy", "here.h5", "q.npy", "there.h5"]
    assert main([*files, "-o", "x.h5", "--cluster", str(scheduler), "--workers", "2"]) == 2
    assert "the workers that it has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "content", "said"),
    [
        ("s.json", "{}", "it names no address"),
        ("s.json", "[1]", "it names no address"),
        ("s.json", "x", "is no scheduler's file"),
        ("s.json", '{"address": "tcp://localhost:x"}', "is no scheduler's address"),
        ("tcp://localhost:x", "", "is no scheduler's address"),
    ],
)
def test_what_is_no_address_is_said_in_a_line(
    where: str, content: str, said: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("s.json").write_text(content)
    assert main([*files, "-o", "x.h5", "--cluster", where]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_who_is_not_there_is_said(
    files: list[str], scheduler: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect: Any = cluster.connect
    monkeypatch.setattr(connect.__wrapped__, "__defaults__", (0.5,))  # seconds of patience
    assert main([*files, "-o", "x.h5", "--cluster", "tcp://127.0.0.1:9"]) == 2
    assert "no Dask scheduler answers there" in capsys.readouterr().err
    assert main([*files, "-o", "x.h5", "--cluster", "nowhere.json"]) == 2
    assert "nowhere.json: there is no such file; start a scheduler" in capsys.readouterr().err
    Path("c.yaml").write_text(f"kind: address\nscheduler-file: {scheduler}\nworkers: 3\nwait: 0.5\n")
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--device", "cuda"]) == 2
    assert "c.yaml: 3 worker(s) for --device cuda were waited for, 0.5 s; 0 are there and" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cluster_file_says_how_many_to_wait_for(
    files: list[str], scheduler: Path, start_worker: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text(f"kind: address\nscheduler-file: {scheduler}\nworkers: 2\nwait: 60\n")
    start_worker()
    threading.Timer(1.0, start_worker).start()  # the run waits for it however long it takes to come
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"] == 2
    Path("c.yaml").write_text(f"kind: address\nscheduler-file: {scheduler}\nworkers: 9\nwait: 0.2\n")
    assert main([*files, "-o", "y.h5", "--cluster", "c.yaml"]) == 0
    assert "c.yaml: 2 of 9 workers are there; others are given work when they come" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_with_a_gpu_are_told_apart(
    files: list[str], scheduler: Path, start_worker: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The GPU is a mere name here, so that what is asked of it fails; on the processor all workers count."""
    start_worker()
    start_worker("--resources", "GPU=1")
    Path("c.yaml").write_text(f"kind: address\nscheduler-file: {scheduler}\nworkers: 2\nwait: 60\n")
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"] == 2
    if find_spec("cupy"):
        return
    Path("c.yaml").write_text(f"kind: address\nscheduler-file: {scheduler}\nwait: 60\n")
    for device in ("auto", "cuda"):
        assert main([*files, "-o", "y.h5", "--cluster", "c.yaml", "--device", device]) == 2
        assert "CuPy is not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_that_joins_late_is_given_work(
    files: list[str], scheduler: Path, start_worker: Callable[..., None]
) -> None:
    """The run has so many shards that it is at work until a second worker has come and been given one."""
    start_worker()
    with cluster.connect(str(scheduler)) as client:
        client.wait_for_workers(1)
        (first,) = client.scheduler_info()["workers"]
        command = [*files, "-o", "x.h5", "--cluster", str(scheduler), "--shard-rows", "1", "--quiet"]
        run = subprocess.Popen([sys.executable, "-m", "gpuknn", *command])
        while not list(Path().glob("x.h5.run/*/*-*.json")):
            assert run.poll() is None
            time.sleep(0.02)
        start_worker()
        client.wait_for_workers(2)
        (second,) = set(client.scheduler_info()["workers"]) - {first}
        while not client.processing()[second]:
            assert run.poll() is None, "the run ended without it"
            time.sleep(0.01)
        run.terminate()
        assert run.wait() == 130


SLURM = "kind: slurm\njobs: 3\ncores: 8\nmemory: 16GiB\n"
SSH = "kind: ssh\nhosts: [a, b, c]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "kind: must be one of address, ssh, slurm, kubernetes"),
        ("- a", "kind: must be one of"),
        ("kind: cloud", "kind: must be one of"),
        ("kind: [ssh]", "kind: must be one of"),
        ("kind: !!python/object/apply:os.system [true]", "cannot be read as YAML"),
        ("kind: address", "address, scheduler-file: give one of the two"),
        ("kind: address\naddress: tcp://a:1\nscheduler-file: b.json", "address, scheduler-file: give one of the two"),
        ("kind: address\naddress: tcp://a:1\nworkers: two", "workers: 'two' is not a whole number"),
        ("kind: address\naddress: tcp://a:1\nwait: -1", "wait: -1 is not a number of seconds"),
        ("kind: kubernetes", "service: is missing"),
        (
            "kind: kubernetes\nservice: s\nnamspace: x",
            "namspace: is no setting of this kind; it has service, namespace",
        ),
        ("kind: ssh\nhosts: [a]", "hosts: ['a'] is not a list of texts, at least 2"),
        (SSH + "gpus: true", "gpus: True is not a whole number"),
        (SSH + "name: x", "name: is no setting of this kind"),
        (SSH + "connect: 5", "connect: 5 is not lines of `name: value`"),
        ("kind: slurm\njobs: 3\ncores: 8", "memory: is missing"),
        (SLURM.replace("3", "0"), "jobs: 0 is not a whole number, at least 1"),
        (SLURM.replace("16GiB", "lots"), "memory: lots is not a size"),
        (SLURM + "walltime: 4:00:00", "walltime: 14400 is not text, in quotes where it looks like a number or a time"),
        (SLURM + "directives: --exclusive", "directives: '--exclusive' is not a list of texts"),
    ],
)
def test_a_wrong_cluster_file_is_one_line(
    text: str, said: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text(text)
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuknn: error: c.yaml: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("where", ["here", "nowhere.yaml", "node1:8786"])
def test_what_is_no_cluster(where: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "-o", "x.h5", "--cluster", where]) == 2
    assert f"--cluster {where}: " in capsys.readouterr().err


def test_the_gpus_of_this_machine(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "-o", "x.h5", "--cluster", "cuda"]) == 2
    assert "--cluster cuda: is none of local, " in capsys.readouterr().err
    if not find_spec("cupy"):
        assert main([*files, "-o", "x.h5", "--device", "cuda"]) == 2
        assert "error: device cuda: CuPy is not installed" in capsys.readouterr().err


def test_kinds_of_cluster_files(tmp_path: Path) -> None:
    def read(text: str) -> object:
        (tmp_path / "c.yaml").write_text(text)
        return read_cluster(str(tmp_path / "c.yaml"))

    name = str(tmp_path / "c.yaml")
    assert read("kind: kubernetes\nservice: s\nnamespace: n\nworkers: 8\nwait: 600") == Running(
        name, "tcp://s.n:8786", 8, 600
    )
    assert read("kind: address\naddress: tls://a:1") == Running(name, "tls://a:1", 1, 30)
    ssh = read(SSH + "gpus: 4")
    assert isinstance(ssh, Ssh)
    assert ssh.workers == 8
    assert read_cluster("tcp://a:1") == Running("tcp://a:1", "tcp://a:1")


@pytest.mark.parametrize("name", ["address", "kubernetes", "slurm", "ssh"])
def test_the_cluster_files_shipped(name: str, tmp_path: Path) -> None:
    """Also with each of the settings that are commented out in them."""
    about, settings = (CONFIGS / f"{name}.yaml").read_text().split("kind: ")
    assert f"--cluster configs/{name}.yaml" in about
    given = [line for line in settings.splitlines() if not line.startswith("#")]
    others = [line.removeprefix("# ") for line in settings.splitlines() if line.startswith("#")]
    assert others
    for other in ("", *others):
        lines = [line for line in given if not (line.startswith("address: ") and other.startswith("scheduler-file: "))]
        (tmp_path / "c.yaml").write_text("\n".join([f"kind: {lines[0]}", *lines[1:], other]))
        assert read_cluster(str(tmp_path / "c.yaml")).workers >= 1


@pytest.mark.slow
def test_a_scheduler_ends_with_its_connection(tmp_path: Path) -> None:
    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0", "preload": ["gpuknn.workers.leash"]}
    spec = json.dumps({"cls": "distributed.Scheduler", "opts": options})
    command = [sys.executable, "-m", "distributed.cli.dask_spec", "--spec", spec]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:  # type: ignore[call-overload]
        while "Scheduler at" not in process.stderr.readline():
            assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0


def test_the_plan_of_a_cluster_that_is_not_started(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(SLURM)
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["workers"], plan["device"]) == (3, "cpu (8 threads)")
    Path("c.yaml").write_text(SLURM.replace("16GiB", "500MiB"))
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--dry-run"]) == 2
    assert "need at least" in capsys.readouterr().err
    assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--device", "cuda"]) == 2
    assert "c.yaml: gpus: is not set, and --device cuda asks for them" in capsys.readouterr().err
    if not find_spec("cupy"):
        Path("c.yaml").write_text(SLURM + "gpus: 2")
        assert main([*files, "-o", "x.h5", "--cluster", "c.yaml", "--dry-run"]) == 2
        assert "CuPy is not installed" in capsys.readouterr().err


def test_job_scripts_for_slurm(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    cpu = job_script(Slurm("c.yaml", 3, 8, "16GiB", account="us", interface="lo", python="/shared/bin/python"))
    assert {"#SBATCH --cpus-per-task=8", "#SBATCH --mem=16G", "#SBATCH -A us", "#SBATCH -t 01:00:00"} <= {*cpu}
    assert "/shared/bin/python -m distributed.cli.dask_worker tcp://127.0.0.1:" in cpu[-1]
    assert " --nthreads 8 " in cpu[-1]
    assert cpu[-1].index("--memory-limit 0") > cpu[-1].index("--memory-limit 16")  # the last one holds
    assert "GPU" not in "".join(cpu)
    gpu = job_script(
        Slurm(
            "c.yaml",
            3,
            16,
            "64GiB",
            gpus=4,
            interface="lo",
            prologue=("module load cuda",),
            directives=("--exclusive",),
        )
    )
    assert {"#SBATCH --cpus-per-task=16", "#SBATCH --gres=gpu:4", "#SBATCH --exclusive", "module load cuda"} <= {*gpu}
    assert " -m dask_cuda.cli tcp://127.0.0.1:" in gpu[-1]
    assert " --nthreads 1 " in gpu[-1]
    assert " --resources GPU=1" in gpu[-1]
    assert "--nworkers" not in gpu[-1]  # which dask-cuda does not know: it counts the GPUs


def job_script(jobs: Slurm) -> list[str]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Port 8787 is already in use")
        queued = slurm_cluster(jobs)
    try:
        return [line for line in queued.job_script().splitlines() if line]
    finally:
        queued.close()


def test_nothing_listens_beyond_this_machine() -> None:
    with cluster.local_cluster(Workers(1, 1, CpuDevice(1))):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 2
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


LOSES_A_CLIENT = """
import logging
import sys

from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.workers.cluster import connect, local_cluster
from gpuknn.workers.workers import Workers

if __name__ == "__main__":
    log = logging.getLogger("distributed.scheduler")
    log.critical("before")
    where = sys.argv[1]
    with local_cluster(Workers(1, 1, CpuDevice(1))) if where == "local" else connect(where):
        log.critical("meanwhile")
"""


@pytest.mark.parametrize("where", ["local", pytest.param("running", marks=pytest.mark.slow)])
def test_critical_records_of_dask_are_not_for_the_terminal(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A scheduler writes one, with a traceback, if a client leaves while workers tell it of progress."""
    script = tmp_path / "loses_a_client.py"
    script.write_text(LOSES_A_CLIENT)
    words = [sys.executable, str(script), where if where == "local" else str(request.getfixturevalue("scheduler"))]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    assert "before" in said
    assert "meanwhile" not in said
