"""Many workers, kills, resumes: always the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from gpuknn.cli.main import main
from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.metric import Metric
from gpuknn.errors import InputError, RunError
from gpuknn.gold import read_gold
from gpuknn.jobs.exact import run as exact
from gpuknn.jobs.exact import shard
from gpuknn.jobs.exact.feed import Feed
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.partial import write_partial
from gpuknn.jobs.exact.plan import PROCESS_BYTES, Plan, Wishes, cut
from gpuknn.storage.record import Record
from gpuknn.vectors import open_vectors
from gpuknn.workers.crew import Crew
from gpuknn.workers.workers import Workers
from tests import oracle
from tests.answers import dists_of, neighbors

ROWS, QUERIES, DIM, K = 60_000, 400, 64, 50
SHARD = 500


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with duplicates, queries, and the right answer for some of them."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM)).astype(np.float16)
    rows[::7] = rows[::-7][: len(rows[::7])]
    np.save(folder / "db.npy", rows)
    np.save(folder / "q.npy", rng.standard_normal((QUERIES, DIM)).astype(np.float32))
    return folder


def words(data: Path, folder: Path, *options: object) -> list[str]:
    return [*map(str, ["exact", data / "db.npy", data / "q.npy", "-k", K, "-o", folder / "gold.h5", *options])]


def answer(folder: Path) -> tuple[bytes, bytes]:
    with h5py.File(folder / "gold.h5") as file:
        return file["knns"][:].tobytes(), file["dists"][:].tobytes()


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The undisturbed run's bytes, a sample of which equals the oracle."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(words(data, folder)) == 0
    assert [p.name for p in folder.iterdir()] == ["gold.h5"]
    some = slice(0, QUERIES, 50)
    ids, dists = oracle.knn(np.load(data / "db.npy"), np.load(data / "q.npy")[some], K, "cosine", "float32")
    with h5py.File(folder / "gold.h5") as file:
        assert np.array_equal(file["knns"][some], ids + 1)
        assert np.array_equal(file["dists"][some], dists)
    return answer(folder)


@pytest.mark.parametrize(
    "options",
    [
        ["--shard-rows", 9_999],
        ["--memory", "SMALL"],
        ["--workers", 2, "--shard-rows", 7_001],
        pytest.param(["--workers", 2], marks=pytest.mark.slow),
    ],
)
def test_the_same_bytes_however_the_work_is_cut(
    options: list[object],
    data: Path,
    expected: tuple[bytes, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "SMALL" in options:  # some 150 queries at once, three passes
        fixed, each = (CpuDevice(usable_cores()).memory(n, K, DIM, 2) for n in (0, 150))
        options = ["--memory", PROCESS_BYTES + each, "--shard-rows", 20_000]
        assert each > fixed
        assert main([*words(data, tmp_path, *options), "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["passes"] == 3
    assert main(words(data, tmp_path, *options)) == 0
    assert answer(tmp_path) == expected


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_self_joins(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 6)).astype(np.float16)[rng.integers(0, 50, 700)]
    np.save("db.npy", rows)
    expected = oracle.knn(rows, rows, 700, metric, "float32")
    search = ["exact", "db.npy", "--metric", metric, "-o", "gold.h5"]
    assert main([*search, "--self", "-k", "20", "--shard-rows", "300"]) == 0
    left_out = read_gold(Path("gold.h5"))
    others = expected[0] != np.arange(700)[:, None]
    assert np.array_equal(left_out.ids, expected[0][others].reshape(700, 699)[:, :20])
    assert np.array_equal(dists_of(left_out), expected[1][others].reshape(700, 699)[:, :20])
    assert main([*search, "--self-first", "-k", "21", "--force"]) == 0
    first = read_gold(Path("gold.h5"))
    assert np.array_equal(first.ids, np.column_stack([np.arange(700), left_out.ids]))
    assert np.array_equal(dists_of(first)[:, 1:], dists_of(left_out))
    assert np.array_equal(dists_of(first)[:, 0], expected[1][~others])


def started(data: Path, folder: Path, *options: object) -> "subprocess.Popen[str]":
    """A run with many shards, of which at least two are finished and more are to come."""
    command = [sys.executable, "-m", "gpuknn", *words(data, folder, "--shard-rows", SHARD, *options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("gold.h5.run/*/*-*.json"))) < 2:
        assert process.poll() is None, "finished before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=60)


def kept_rows(folder: Path) -> set[int]:
    names = [path.stem.split(".")[1].split("-") for path in folder.glob("gold.h5.run/*/*-*.json")]
    return {row for start, stop in names for row in range(int(start), int(stop))}


def finish(data: Path, folder: Path, expected: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again goes on from what was done and gives the same bytes."""
    kept = kept_rows(folder)
    assert len(kept) >= 2 * SHARD
    assert main(words(data, folder, "--shard-rows", SHARD, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["resumed_rows"] == len(kept)
    assert answer(folder) == expected
    assert [p.name for p in folder.iterdir()] == ["gold.h5"]


@pytest.mark.slow
def test_killed_worker(data: Path, expected: tuple[bytes, bytes], tmp_path: Path) -> None:
    process = started(data, tmp_path, "--workers", 2)
    workers_of(process)[0].kill()
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert answer(tmp_path) == expected


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_client(
    workers: int, data: Path, expected: tuple[bytes, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = started(data, tmp_path, "--workers", workers)
    processes = workers_of(process)
    kill(process)
    gone, alive = psutil.wait_procs(processes, timeout=60)
    assert len(gone) == (2 if workers == 2 else 0), "one worker lives in the client's process"
    assert not alive
    assert not (tmp_path / "gold.h5").exists()
    finish(data, tmp_path, expected, capsys)


@pytest.mark.slow
def test_unfinished_runs_are_listed_resumed_and_removed(
    data: Path,
    expected: tuple[bytes, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = started(data, tmp_path)
    run = tmp_path / "gold.h5.run"
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["at_work"]
    assert main(["runs", "--remove", str(run)]) == 3
    assert f"another gpuknn (process {process.pid} on " in capsys.readouterr().err
    kill(process)
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{run}: waiting; ")
    assert f"of {ROWS:,} rows done" in said
    monkeypatch.chdir(data)
    assert main(["runs", "--resume", str(run)]) == 0
    assert answer(tmp_path) == expected
    kill(started(data, tmp_path, "--force"))
    assert main(["runs", "--remove", str(run)]) == 0
    assert not run.exists()
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", "--resume", str(run)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        (signal.SIGINT, 1),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
    ],
)
def test_interrupted(
    how: signal.Signals,
    workers: int,
    data: Path,
    expected: tuple[bytes, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = started(data, tmp_path, "--workers", workers)
    processes = workers_of(process)
    os.killpg(process.pid, how)  # as Ctrl-C in a terminal: the workers hear it too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    done = len(kept_rows(tmp_path))
    assert said.splitlines() == [
        "interrupted: saving what is under way (a second Ctrl-C stops at once)",
        f"gpuknn: interrupted; {done:,} of {ROWS:,} rows are done and kept, the same command goes on from there",
    ]
    assert not psutil.wait_procs(processes, timeout=60)[1]
    assert not (tmp_path / "gold.h5").exists()
    finish(data, tmp_path, expected, capsys)


@pytest.fixture
def left(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has done all but write its answer."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exact, "written", full)
        assert main(words(data, tmp_path, "--shard-rows", SHARD)) == 3
    return tmp_path


def test_damaged_partials_are_computed_again(
    data: Path, expected: tuple[bytes, bytes], left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted(left.glob("gold.h5.run/*/*-*.bin"))[:2]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-1])
    assert main(words(data, left)) == 0
    assert capsys.readouterr().err.count("is damaged; the same command computes it again") == 2
    assert answer(left) == expected


def test_another_job_does_not_take_over_the_run_directory(
    data: Path, left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(data, left), "-k", "7"]) == 2
    assert "holds what another job has left (other: k)" in capsys.readouterr().err
    assert main([*words(data, left), "-k", "7", "--fresh"]) == 0


def planned(folder: Path) -> Plan:
    """A plan to find three neighbours of 50 rows among themselves, with workers that nothing is given to."""
    np.save(folder / "db.npy", np.eye(50, dtype=np.float32))
    vectors = open_vectors(folder / "db.npy")
    asked = Job(vectors, vectors, 3, Metric.L2, "float32")
    crew = Crew("made up", Workers(1, 1, CpuDevice(1)), threads=1)
    return Plan(asked, folder / "gold.h5", crew, Wishes(), None, 50, 50, 1)


def test_a_database_changed_during_the_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path)
    fingerprint = plan.job.fingerprint(plan.job.sampled())

    def compute_meanwhile(_feed: object, _done: object, shards: list[tuple[range, range]]) -> dict[range, list[range]]:
        for queries, rows in shards:
            found, certificate = neighbors(len(queries), 3)
            write_partial(plan.record.path / fingerprint, queries, rows, found, certificate, "cpu")
        os.utime(tmp_path / "db.npy")
        return {queries: [rows] for queries, rows in shards}

    monkeypatch.setattr(Feed, "run", compute_meanwhile)
    with pytest.raises(RunError, match="was changed while it was searched"):
        exact.run_exact(plan)
    assert not (tmp_path / "gold.h5").exists()


def test_a_run_that_was_begun_with_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute_one(_feed: object, _done: object, shards: list[tuple[range, range]]) -> None:
        found, certificate = neighbors(len(shards[0][0]), 3)
        write_partial(next(tmp_path.glob("*.run/*/")), *shards[0], found, certificate, "cpu")
        raise RunError("the power failed")

    monkeypatch.setattr(Feed, "run", compute_one)
    plan = planned(tmp_path)
    with pytest.raises(RunError, match="the power failed"):
        exact.run_exact(plan)
    with pytest.raises(InputError, match="was begun with 50 queries at once, and there is memory for 4 now"):
        exact.run_exact(replace(plan, block=4))
    assert list(tmp_path.glob("*.run/*/*.bin"))


def test_nothing_is_kept_of_what_was_found_in_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "db.npy", np.eye(50, dtype=np.float32))
    vectors = open_vectors(tmp_path / "db.npy")
    job = Job(vectors, vectors, 3, Metric.L2, "float32")
    state = job.file_state()
    os.utime(tmp_path / "db.npy")
    task = range(50), range(50), np.full(50, np.inf), tmp_path, CpuDevice(1)
    with pytest.raises(RunError, match="was changed while it was searched"):
        shard.scan_shard(job, state, *task)
    assert not list(tmp_path.glob("*.bin"))
    shard.scan_shard(job, job.file_state(), *task)
    assert list(tmp_path.glob("*.bin"))


def test_a_client_killed_at_the_very_end_had_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    np.save(tmp_path / "db.npy", rows)
    np.save(tmp_path / "q.npy", rows)
    search = ["exact", str(tmp_path / "db.npy"), str(tmp_path / "q.npy"), "-o", str(tmp_path / "gold.h5"), "-k"]
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", lambda _: None)  # killed before that
        assert main([*search, "3"]) == 0
    run, content = tmp_path / "gold.h5.run", (tmp_path / "gold.h5").read_bytes()
    assert run.is_dir()
    assert main([*search, "4"]) == 2
    assert "holds what another job has left (other: k)" in capsys.readouterr().err
    assert main([*search, "3"]) == 0
    assert not run.exists()
    assert (tmp_path / "gold.h5").read_bytes() == content
    run.mkdir()  # another client began and left; its output came meanwhile
    assert main([*search, "4"]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "gold.h5").read_bytes() == content
    assert not run.exists()
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", lambda _: None)
        assert main([*search, "4", "--force"]) == 0
    (tmp_path / "gold.h5").write_bytes(b"of somebody else")
    assert main([*search, "4"]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert main([*search, "4", "--fresh"]) == 2
    assert list(run.glob("*/*-*.json"))  # what was finished is not thrown away


@pytest.mark.parametrize("name", ["gold.ibin", "gold.ivecs"])
def test_formats_that_say_nothing_of_themselves_are_known_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:9])
    search = ["exact", "db.npy", "q.npy", "-k", "3", "-o", name]
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", lambda _: None)  # killed before that
        assert main(search) == 0
    content = Path(name).read_bytes()
    assert main(search) == 0
    assert Path(name).read_bytes() == content
    assert not Path(f"{name}.run").exists()
    assert main(search) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err


def test_what_is_left_to_do_is_cut_evenly() -> None:
    assert cut(10, [], 4) == [range(3), range(3, 6), range(6, 10)]
    assert cut(10, [range(2, 5), range(8, 10)], 100) == [range(2), range(5, 8)]
    assert cut(10, [range(10)], 3) == []
    everything = cut(1000, [range(100, 200), range(500, 501)], 7)
    assert max(map(len, everything)) <= 7
    assert sum(map(len, everything)) == 899
