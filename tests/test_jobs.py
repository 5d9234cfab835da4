"""Many workers, kills, resumes: always the same bytes."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import psutil
import pytest

from gpuknn.cli.main import main
from gpuknn.engine.choose import usable_cores
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.device import Certificate
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Neighbors
from gpuknn.errors import InputError, RunError
from gpuknn.gold import read_gold
from gpuknn.jobs.exact import run as exact
from gpuknn.jobs.exact import shard
from gpuknn.jobs.exact.feed import Feed
from gpuknn.jobs.exact.job import Job
from gpuknn.jobs.exact.partial import find_partial, find_partials, write_partial
from gpuknn.jobs.exact.plan import PROCESS_BYTES, Plan, Wishes, cut
from gpuknn.storage.record import Identity, Record
from gpuknn.vectors import open_vectors
from gpuknn.workers.crew import Crew
from gpuknn.workers.workers import Workers
from tests import oracle
from tests.answers import dists_of

ROWS, QUERIES, DIM, K = 60_000, 2_000, 64, 50
SHARD = 3_000


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


def command(data: Path, folder: Path, *options: object) -> list[str]:
    words = ["exact", data / "db.npy", data / "q.npy", "-k", K, "-o", folder / "gold.h5", *options]
    return [sys.executable, "-m", "gpuknn", *map(str, words)]


def answer(folder: Path) -> tuple[bytes, bytes]:
    with h5py.File(folder / "gold.h5") as file:
        return file["knns"][:].tobytes(), file["dists"][:].tobytes()


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The undisturbed run's bytes, a sample of which equals the oracle."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(data, folder), check=True, timeout=300)
    assert [p.name for p in folder.iterdir()] == ["gold.h5"]
    some = slice(0, QUERIES, 200)
    ids, dists = oracle.knn(np.load(data / "db.npy"), np.load(data / "q.npy")[some], K, "cosine", "float32")
    with h5py.File(folder / "gold.h5") as file:
        assert np.array_equal(file["knns"][some], ids + 1)
        assert np.array_equal(file["dists"][some], dists)
    return answer(folder)


@pytest.mark.parametrize(
    "options",
    [["--workers", 2], ["--shard-rows", 9_999], ["--workers", 2, "--shard-rows", 7_001], ["--memory", "SMALL"]],
)
def test_the_same_bytes_however_the_work_is_cut(
    options: list[object], data: Path, expected: tuple[bytes, bytes], tmp_path: Path
) -> None:
    if "SMALL" in options:  # some 700 queries at once, three passes
        fixed, each = (CpuDevice(usable_cores()).memory(n, K, DIM, 2) for n in (0, 700))
        options = ["--memory", 2 * PROCESS_BYTES + each, "--shard-rows", 20_000]
        assert each > fixed
        plan = subprocess.run(
            [*command(data, tmp_path, *options), "--dry-run", "--json"], capture_output=True, check=True
        )
        assert json.loads(plan.stdout)["passes"] == 3
    subprocess.run(command(data, tmp_path, *options), check=True, timeout=300)
    assert answer(tmp_path) == expected


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_self_joins(metric: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 6)).astype(np.float16)[rng.integers(0, 50, 700)]
    np.save(tmp_path / "db.npy", rows)
    expected = oracle.knn(rows, rows, 700, metric, "float32")
    words = [sys.executable, "-m", "gpuknn", "exact", "db.npy", "--metric", metric, "-o", "gold.h5"]
    subprocess.run([*words, "--self", "-k", "20", "--shard-rows", "300"], cwd=tmp_path, check=True, timeout=300)
    left_out = read_gold(tmp_path / "gold.h5")
    others = expected[0] != np.arange(700)[:, None]
    assert np.array_equal(left_out.ids, expected[0][others].reshape(700, 699)[:, :20])
    assert np.array_equal(dists_of(left_out), expected[1][others].reshape(700, 699)[:, :20])
    subprocess.run([*words, "--self-first", "-k", "21", "--force"], cwd=tmp_path, check=True, timeout=300)
    first = read_gold(tmp_path / "gold.h5")
    assert np.array_equal(first.ids, np.column_stack([np.arange(700), left_out.ids]))
    assert np.array_equal(dists_of(first)[:, 1:], dists_of(left_out))
    assert np.array_equal(dists_of(first)[:, 0], expected[1][~others])


def started(data: Path, folder: Path, *options: object) -> "subprocess.Popen[str]":
    """A run with many shards, of which at least two are finished and more are to come."""
    words = command(data, folder, "--shard-rows", SHARD, *options)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
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


def finish(data: Path, folder: Path, expected: tuple[bytes, bytes]) -> None:
    """The same command again goes on from what was done and gives the same bytes."""
    names = [path.stem.split(".")[1].split("-") for path in folder.glob("gold.h5.run/*/*-*.json")]
    kept = {row for start, stop in names for row in range(int(start), int(stop))}
    assert len(kept) >= 2 * SHARD
    words = [*command(data, folder, "--shard-rows", SHARD), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)["resumed_rows"] == len(kept)
    assert answer(folder) == expected
    assert [p.name for p in folder.iterdir()] == ["gold.h5"]


def test_killed_worker(data: Path, expected: tuple[bytes, bytes], tmp_path: Path) -> None:
    process = started(data, tmp_path, "--workers", 2)
    workers_of(process)[0].kill()
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert answer(tmp_path) == expected


def test_killed_client(data: Path, expected: tuple[bytes, bytes], tmp_path: Path) -> None:
    process = started(data, tmp_path)
    workers = workers_of(process)
    kill(process)
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert gone
    assert not alive
    assert not (tmp_path / "gold.h5").exists()
    finish(data, tmp_path, expected)


def test_unfinished_runs_are_listed_resumed_and_removed(
    data: Path, expected: tuple[bytes, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    words = [sys.executable, "-m", "gpuknn", "runs"]
    elsewhere = {"cwd": data, "timeout": 300, "check": True}
    subprocess.run([*words, "--resume", str(run)], **elsewhere)  # type: ignore[call-overload]
    assert answer(tmp_path) == expected
    kill(started(data, tmp_path, "--force"))
    subprocess.run([*words, "--remove", str(run)], **elsewhere)  # type: ignore[call-overload]
    assert not run.exists()
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", "--resume", str(run)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(how: signal.Signals, data: Path, expected: tuple[bytes, bytes], tmp_path: Path) -> None:
    process = started(data, tmp_path)
    workers = workers_of(process)
    os.killpg(process.pid, how)  # as Ctrl-C in a terminal: the workers hear it too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "gpuknn: interrupted; what is finished is kept, the same command goes on from there\n"
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert not (tmp_path / "gold.h5").exists()
    finish(data, tmp_path, expected)


def test_damaged_partials_are_computed_again(data: Path, expected: tuple[bytes, bytes], tmp_path: Path) -> None:
    process = started(data, tmp_path)
    kill(process)
    first, second = sorted(tmp_path.glob("gold.h5.run/*/*-*.bin"))[:2]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-1])
    done = subprocess.run(command(data, tmp_path), capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr.count("is damaged; the same command computes it again") == 2
    assert answer(tmp_path) == expected


def test_another_job_does_not_take_over_the_run_directory(data: Path, tmp_path: Path) -> None:
    process = started(data, tmp_path)
    kill(process)
    other = subprocess.run([*command(data, tmp_path), "-k", "7"], capture_output=True, text=True, timeout=300)
    assert other.returncode == 2
    assert "holds what another job has left (other: k)" in other.stderr
    fresh = subprocess.run([*command(data, tmp_path), "-k", "7", "--fresh"], capture_output=True, timeout=300)
    assert fresh.returncode == 0


def neighbors(nq: int, k: int) -> tuple[Neighbors, Certificate]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (nq, k))
    return Neighbors(ids, rng.random((nq, k), np.float32)), Certificate("test", 0.1, 3, 0.5)


def test_partials_are_read_as_they_were_written(tmp_path: Path) -> None:
    found, certificate = neighbors(10, 4)
    block = range(100, 110)
    for rows in (range(5, 9), range(5)):
        write_partial(tmp_path, block, rows, found, certificate, "cpu")
    write_partial(tmp_path, range(100), range(5), found, certificate, "cpu")
    (tmp_path / "000-001.bin.99.part").write_text("remains of a killed worker")
    partials, damaged = find_partials(tmp_path, block)
    assert list(partials) == [range(5), range(5, 9)]
    assert not damaged
    partial = find_partial(tmp_path, block, range(5, 9))
    part = partial.read(range(103, 109))
    assert np.array_equal(part.ids, found.ids[3:9])
    assert np.array_equal(part.dists, found.dists[3:9])
    assert np.array_equal(partials[range(5, 9)], found.dists[:, -1])
    assert partial.certificate == certificate
    receipt = tmp_path / "0000000100-0000000110.000000000005-000000000009.json"
    for other in (".000000000005-000000000010", ".000000000009-000000000013"):  # as if it were about other rows
        taken = receipt.with_name(f"0000000100-0000000110{other}.json")
        taken.write_bytes(receipt.read_bytes())
        taken.with_suffix(".bin").write_bytes(receipt.with_suffix(".bin").read_bytes())
    assert find_partials(tmp_path, block)[1] == [range(5, 10), range(9, 13)]


def job(letters: str, size: int = 9, **description: int) -> Identity:
    return Identity(letters * 8, description, "a job", 100, {"queries_at_once": size})


ABC, DEF = "abc0", "def0"
"""Beginnings of fingerprints."""


def test_one_client_at_a_time(tmp_path: Path) -> None:
    directory = Record(tmp_path / "run")
    with directory.held(job(ABC, k=1), fresh=False) as claim:
        assert claim.settings == {"queries_at_once": 9}
        again = Record(tmp_path / "run")
        with pytest.raises(RunError, match=r"another gpuknn \(process"), again.held(job(ABC, k=1), fresh=False):
            pass
    with pytest.raises(InputError, match="other: k"), directory.held(job(DEF, k=2), fresh=False):
        pass
    with pytest.raises(InputError, match="changed since"), directory.held(job(DEF, k=1), fresh=False):
        pass


def test_a_run_keeps_to_the_memory_of_today(tmp_path: Path) -> None:
    directory = Record(tmp_path / "run")
    for size in (9, 5):  # nothing was finished, so the blocks are those that fit now
        with directory.held(job(ABC, size), fresh=False) as claim:
            assert claim.settings == {"queries_at_once": size}
    found, certificate = neighbors(5, 4)
    write_partial(claim.folder, range(5), range(5), found, certificate, "cpu")
    with directory.held(job(ABC, 9), fresh=False) as claim:
        assert claim.settings == {"queries_at_once": 5}
    with directory.held(job(ABC, 4), fresh=True) as claim:
        assert claim.settings == {"queries_at_once": 4}


def test_a_task_of_a_job_that_was_given_up_on_writes_in_vain(tmp_path: Path) -> None:
    directory = Record(tmp_path / "run")
    found, certificate = neighbors(5, 4)
    with directory.held(job(ABC), fresh=False) as earlier:
        pass
    with directory.held(job(DEF), fresh=True) as claim:
        with pytest.raises(FileNotFoundError):
            write_partial(earlier.folder, range(5), range(5), found, certificate, "cpu")
        assert find_partials(claim.folder, range(5)) == ({}, [])


def test_nothing_is_thrown_away_that_cannot_be_read_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Record(tmp_path / "run")
    found, certificate = neighbors(5, 4)
    with directory.held(job(ABC), fresh=False) as claim:
        write_partial(claim.folder, range(5), range(5), found, certificate, "cpu")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        with pytest.raises(OSError, match="Input/output"), directory.held(job(ABC), fresh=False):
            pass
    with monkeypatch.context() as patched:
        patched.setattr(np, "fromfile", fail)
        with pytest.raises(OSError, match="Input/output"):
            find_partials(claim.folder, range(5))
    assert list(find_partials(claim.folder, range(5))[0]) == [range(5)]


def test_files_of_others_in_the_run_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "n=100K-queries.h5").write_text("precious")
    directory = Record(tmp_path)
    for fresh in (False, True):
        with pytest.raises(InputError, match="it holds n=100K-queries"), directory.held(job(ABC), fresh):
            pass
    directory.remove()
    assert [p.name for p in tmp_path.iterdir()] == ["n=100K-queries.h5"]


def test_remains_of_killed_workers_are_swept(tmp_path: Path) -> None:
    found, certificate = neighbors(10, 4)
    directory = Record(tmp_path)
    with directory.held(job(ABC, 10), fresh=False) as claim:
        write_partial(claim.folder, range(10), range(5), found, certificate, "cpu")
        write_partial(claim.folder, range(10), range(5, 9), found, certificate, "cpu")
    sorted(claim.folder.glob("*.json"))[1].unlink()
    (claim.folder / "0000000000-0000000010.000000000009-000000000010.bin.77.part").write_text("half")
    (tmp_path / "manifest.json.0a.part").write_text("half")
    with directory.held(job(ABC, 10), fresh=False):
        kept = sorted(p.name for p in tmp_path.rglob("*"))
    stem = "0000000000-0000000010.000000000000-000000000005"
    assert kept == [f"{stem}.bin", f"{stem}.json", ABC * 8, "gpuknn.lock", "manifest.copy.json", "manifest.json"]
    (tmp_path / "manifest.json").write_text("[1]")
    with directory.held(job(ABC, 11), fresh=False) as claim:
        assert claim.settings == {"queries_at_once": 10}  # as the copy says
    (tmp_path / "manifest.json").write_text("[1]")
    (tmp_path / "manifest.copy.json").write_text(json.dumps({"fingerprint": ABC * 8}))
    with directory.held(job(ABC, 7), fresh=False) as claim:
        assert claim.settings == {"queries_at_once": 7}
        assert not find_partials(claim.folder, range(10))[0]


def planned(folder: Path) -> Plan:
    """A plan to find three neighbours of 50 rows among themselves, with workers that nothing is given to."""
    np.save(folder / "db.npy", np.eye(50, dtype=np.float32))
    vectors = open_vectors(folder / "db.npy")
    asked = Job(vectors, vectors, 3, Metric.L2, "float32")
    crew = Crew("made up", Workers(1, 1, CpuDevice(1)), connection=SimpleNamespace())
    return Plan(asked, folder / "gold.h5", crew, Wishes(), None, 50, 50, 1)


@pytest.fixture
def no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("listen", "watched", "dask_feeder"):
        monkeypatch.setattr(exact, name, lambda *_: nullcontext())
    monkeypatch.setattr(exact, "page_address", str)


@pytest.mark.usefixtures("no_dask")
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


@pytest.mark.usefixtures("no_dask")
def test_rows_done_are_counted_once_though_two_threads_hear_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def hear_in_two_threads(feed: Any, *_: object) -> None:
        def tell() -> None:
            for first, rows in product(range(0, 3000, 3), (1, 2, 3)):
                feed._heard({"event": "progress", "queries": 0, "shard": first, "rows": rows})

        threads = [threading.Thread(target=tell) for _ in range(2)]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
        raise RunError("enough")

    monkeypatch.setattr(Feed, "run", hear_in_two_threads)
    with pytest.raises(RunError, match="enough"):
        exact.run_exact(planned(tmp_path), lambda event: done.append(event.get("done", 0)))
    assert done[-1] == max(done) == 3000


@pytest.mark.usefixtures("no_dask")
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
    monkeypatch.setattr(shard, "tell", lambda *_, **__: None)
    monkeypatch.setattr(shard, "get_worker", lambda: SimpleNamespace(name="0", state=SimpleNamespace(nthreads=1)))
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
    words = ["exact", str(tmp_path / "db.npy"), str(tmp_path / "q.npy"), "-o", str(tmp_path / "gold.h5"), "-k"]
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", lambda _: None)  # killed before that
        assert main([*words, "3"]) == 0
    run, content = tmp_path / "gold.h5.run", (tmp_path / "gold.h5").read_bytes()
    assert run.is_dir()
    assert main([*words, "4"]) == 2
    assert "holds what another job has left (other: k)" in capsys.readouterr().err
    assert main([*words, "3"]) == 0
    assert not run.exists()
    assert (tmp_path / "gold.h5").read_bytes() == content
    run.mkdir()  # another client began and left; its output came meanwhile
    assert main([*words, "4"]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "gold.h5").read_bytes() == content
    assert not run.exists()
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", lambda _: None)
        assert main([*words, "4", "--force"]) == 0
    (tmp_path / "gold.h5").write_bytes(b"of somebody else")
    assert main([*words, "4"]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert main([*words, "4", "--fresh"]) == 2
    assert list(run.glob("*/*-*.json"))  # what was finished is not thrown away


@pytest.mark.parametrize("name", ["gold.ibin", "gold.ivecs"])
def test_formats_that_say_nothing_of_themselves_are_known_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:9])
    words = ["exact", "db.npy", "q.npy", "-k", "3", "-o", name]
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", lambda _: None)  # killed before that
        assert main(words) == 0
    content = Path(name).read_bytes()
    assert main(words) == 0
    assert Path(name).read_bytes() == content
    assert not Path(f"{name}.run").exists()
    assert main(words) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err


def test_what_is_left_to_do_is_cut_evenly() -> None:
    assert cut(10, [], 4) == [range(3), range(3, 6), range(6, 10)]
    assert cut(10, [range(2, 5), range(8, 10)], 100) == [range(2), range(5, 8)]
    assert cut(10, [range(10)], 3) == []
    everything = cut(1000, [range(100, 200), range(500, 501)], 7)
    assert max(map(len, everything)) <= 7
    assert sum(map(len, everything)) == 899
