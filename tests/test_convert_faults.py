"""Conversions that are killed, interrupted, short of disk or of sound files: finished by the same command or undone."""

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from threading import Semaphore
from typing import Any

import h5py
import numpy as np
import pytest

from gpuknn.cli.main import main
from gpuknn.engine.choose import usable_cores
from gpuknn.errors import InputError, RunError
from gpuknn.jobs import writing
from gpuknn.jobs.pieces import write_receipt
from gpuknn.jobs.rewrite import run as conversion
from gpuknn.jobs.rewrite.plan import record_of
from gpuknn.storage.location import listing
from gpuknn.storage.lock import Owner
from gpuknn.storage.record import Identity, Record
from gpuknn.vectors import open_vectors
from gpuknn.vectors import target as target_module
from gpuknn.vectors.converted import Converted
from gpuknn.vectors.target import Piece, Target, write_piece
from gpuknn.workers import crew, feed
from gpuknn.workers.crew import Crew
from gpuknn.workers.feed import Feeder
from tests import forks

ROWS, D, PIECE = 10_000, 16, 500
PIECES = ROWS // PIECE


@pytest.fixture(autouse=True)
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    made = np.random.default_rng(3).standard_normal((ROWS, D)).astype(np.float16)
    np.save("source.npy", made)
    return made


def convert(name: str, *options: object, ends_after: int = 0, by: str = "KILL") -> "subprocess.CompletedProcess[str]":
    """In another process, which ends itself as the so-manieth piece comes in."""
    cut = ["--shard-rows", PIECE, "--chunk-rows", 100] if name.endswith(".zarr") else []
    words = ["convert", "source.npy", name, *map(str, [*cut, *options])]
    return forks.run(convert_or_end, words, ends_after, getattr(signal, f"SIG{by}"))


def convert_or_end(words: list[str], left: int, signal_: signal.Signals) -> int:
    """Runs in a process of its own, with small pieces.

    -1 pieces: it ends when all is written and nothing has its name; -2: when it has its name; -3: when what had the
    name before is put aside.
    """
    target_module.PIECE_BYTES = PIECE * D * 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does

    def end(*_: object) -> None:
        os.kill(os.getpid(), signal_)

    def write_or_end(*receipt: Any, write: Callable[..., None] = write_receipt) -> None:
        nonlocal left
        left -= 1
        if left == 0 and signal_ is signal.SIGKILL:
            end()
        write(*receipt)
        if left == 0:
            end()

    def replace_or_end(old: str, new: str, replace: Callable[..., None] = os.replace) -> None:
        if str(new) == "a.zarr":
            end()
        replace(old, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write_receipt", write_or_end)
        for name in {-1: ("publish", "remove"), -2: ("remove",)}.get(left, ()):
            patch.setattr(Record, name, end)
        if left == -3:
            patch.setattr(os, "replace", replace_or_end)
        return main(words)


def receipts(name: str) -> int:
    return len(list(record_of(name).path.glob("*/*-*.json")))


def finish(name: str, kept: int, values: np.ndarray, *options: object) -> None:
    """The same command writes what is missing and nothing else."""
    done = convert(name, *options, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["pieces"], outcome["written"]) == (PIECES, PIECES - kept)
    assert open_vectors(name)[:].tobytes() == values.tobytes()
    assert sorted(p.name for p in Path().iterdir()) == sorted(["source.npy", name])


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.npy"])
def test_killed(name: str, values: np.ndarray) -> None:
    kept = 0
    for more in (8, 5):
        assert convert(name, ends_after=more).returncode == -9
        kept += more - 1
        assert receipts(name) == kept
        assert not Path(name).exists()
        if name == "a.zarr":
            on_disk = list(Path("a.zarr.run").glob("*/target/c/*/0"))
            in_flight = 2 * usable_cores()
            assert kept < len(on_disk) <= kept + 1 + in_flight
            assert not list(Path().rglob("zarr.json"))
    (next(Path(f"{name}.run").glob("*/target")).parent / "000000009500-000000010000.json").write_text('{"first": 9500')
    finish(name, kept, values)


@pytest.mark.parametrize(
    ("name", "where"), [("a.zarr", ""), ("a.h5", ""), pytest.param("a.zarr", "bucket", marks=pytest.mark.slow)]
)
def test_killed_at_the_very_end(name: str, where: str, values: np.ndarray, request: pytest.FixtureRequest) -> None:
    path = f"{request.getfixturevalue(where)}/{name}" if where else name
    assert convert(path, ends_after=-1).returncode == -9
    assert receipts(path) == PIECES
    done = convert(path, "--json")
    assert json.loads(done.stdout)["written"] == 0
    assert open_vectors(path)[:].tobytes() == values.tobytes()
    assert main(["compare", path]) == 0
    assert [p.name for p in Path().glob("*.run")] == []


@pytest.mark.parametrize("options", [[], ["--force"]])
def test_killed_when_only_the_record_was_left(options: list[str], values: np.ndarray) -> None:
    if options:
        assert convert("a.zarr", "--rows", "0:2000").returncode == 0
    assert convert("a.zarr", *options, ends_after=-2).returncode == -9
    assert Path("a.zarr.run").is_dir()
    refused = convert("a.zarr", "--fresh")
    assert (refused.returncode, "exists already" in refused.stderr) == (2, True)
    finish("a.zarr", PIECES, values)
    assert convert("a.zarr").returncode == 2


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_what_is_left_of_a_finished_conversion_is_not_taken_for_another(name: str, values: np.ndarray) -> None:
    """Killed before its record is removed, or meanwhile."""
    for stop in ("gpuknn.storage.record.Record.remove", "shutil.rmtree"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stop, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            assert main(["convert", "source.npy", name, "--quiet"]) == 130
        np.save("other.npy", -values)
        for options in ([], ["--force"], ["--force", "--fresh"]):
            code = main(["convert", "other.npy", name, "--quiet", *options])
            assert code in (0, 2)
            kept = values if code else -values
            assert open_vectors(name)[:].tobytes() == kept.tobytes()
        assert code == 0
        assert not record_of(name).exists
        shutil.rmtree(name) if name == "a.zarr" else os.unlink(name)


def test_a_cluster_that_does_not_start_costs_no_finished_piece(values: np.ndarray) -> None:
    assert convert("a.h5", ends_after=8).returncode == -9
    Path("ssh.yaml").write_text("kind: ssh\nhosts: [nowhere.invalid, nowhere.invalid]\n")
    refused = convert("a.h5", "--cluster", "ssh.yaml")
    assert refused.returncode == 2
    assert "ssh.yaml: " in refused.stderr
    Path("ssh.yaml").unlink()
    finish("a.h5", 7, values)


def test_a_record_that_another_client_has_taken_over_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noticed before the first receipt, or only when all is written."""
    lock = record_of("a.npy").path / "gpuknn.lock"

    def take_over(*_: object) -> None:
        lock.write_text(json.dumps(asdict(Owner("other", 1, "another kernel", "token"))))

    for module, name in ((writing, "write_receipt"), (conversion, "_check_unchanged")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, take_over)
            assert main(["convert", "source.npy", "a.npy", "--quiet"]) == 3
        assert "was taken over by process 1 on other" in capsys.readouterr().err
        assert "other" in lock.read_text()
        assert list(record_of("a.npy").path.glob("*/target"))
        assert not Path("a.npy").exists()
        shutil.rmtree(record_of("a.npy").path)


def test_killed_between_the_two_renames(values: np.ndarray) -> None:
    """What is to be replaced has no name then: going on and beginning anew bring back one of the two."""
    assert convert("a.zarr", "--rows", "0:2000").returncode == 0
    for options, rows in ((["--fresh", "--dtype", "uint8"], 2000), ([], ROWS)):
        assert convert("a.zarr", "--force", ends_after=-3).returncode == -9
        assert not Path("a.zarr").exists()
        assert convert("a.zarr", *options).returncode == (2 if options else 0)
        assert open_vectors("a.zarr")[:].tobytes() == values[:rows].tobytes()
        assert sorted(p.name for p in Path().iterdir()) == ["a.zarr", "source.npy"]


@pytest.mark.slow
def test_two_stores_of_one_name(bucket: str, values: np.ndarray) -> None:
    """A conversion to one is not taken for one to the other, nor its remains for the right to replace it."""
    urls = [f"{bucket}/{place}/a.zarr" for place in ("one", "two")]
    np.save("source.npy", -values)
    assert convert(urls[1], "--rows", "0:2000").returncode == 0
    np.save("source.npy", values)
    assert convert(urls[0], ends_after=8).returncode == -9
    other = convert(urls[1])
    assert (other.returncode, "--force replaces them" in other.stderr) == (2, True)
    os.rename(record_of(urls[0]).path, record_of(urls[1]).path)  # as if the hashes were equal
    other = convert(urls[1], "--force")
    assert (other.returncode, "holds what another job has left" in other.stderr) == (2, True)
    record_of(urls[1])._remove_files()
    other = convert(urls[1])
    assert (other.returncode, "--force replaces them" in other.stderr) == (2, True)
    assert open_vectors(urls[1])[:].tobytes() == (-values[:2000]).tobytes()


@pytest.mark.slow
def test_a_store_is_not_written_over_its_source(bucket: str, values: np.ndarray) -> None:
    url = f"{bucket}/some/a.zarr"
    assert convert(url).returncode == 0
    for destination in (url, f"{url}/", f"{bucket}/some", f"{url}/b.zarr"):
        assert main(["convert", url, destination, "--to", "zarr", "--force", "--dtype", "float32"]) == 2
    assert open_vectors(url)[:].tobytes() == values.tobytes()


@pytest.mark.slow
def test_killed_on_the_way_to_an_object_store(bucket: str, values: np.ndarray) -> None:
    url = f"{bucket}/some/a.zarr"
    assert convert(url, ends_after=8).returncode == -9
    assert receipts(url) == 7
    there = [stored.name for stored in listing(url)]
    assert 7 < len(there) <= 8 + 2 * usable_cores()
    assert "zarr.json" not in there
    done = convert(url, "--json")
    assert json.loads(done.stdout)["written"] == PIECES - 7
    assert open_vectors(url)[:].tobytes() == values.tobytes()
    assert len(listing(url)) == PIECES + 1
    assert [p.name for p in Path().iterdir()] == ["source.npy"]
    again = convert(url)
    assert (again.returncode, "--force replaces them" in again.stderr) == (2, True)
    assert convert(url, "--force", "--shard-rows", 1000, "--compression", "zstd").returncode == 0
    assert open_vectors(url)[:].tobytes() == values.tobytes()
    assert len(listing(url)) == ROWS // 1000 + 1
    for other in (f"{bucket}/some", bucket):
        assert main(["convert", "source.npy", other, "--to", "zarr", "--force"]) == 2
    assert main(["convert", "source.npy", f"{bucket}/unit.zarr", "--dtype", "int8", "--normalize"]) == 2
    values[-1] = np.inf
    np.save("source.npy", values)
    assert convert(f"{bucket}/int.zarr", "--dtype", "int8").returncode == 2
    assert not listing(f"{bucket}/int.zarr")


@pytest.mark.parametrize("how", ["INT", "TERM"])
def test_interrupted(how: str, values: np.ndarray) -> None:
    stopped = convert("a.zarr", ends_after=3, by=how)
    assert stopped.returncode == 130
    done = receipts("a.zarr")
    kept = f"{done * PIECE:,} of {ROWS:,} rows are written and kept"
    assert stopped.stderr == f"gpuknn: interrupted; {kept}, the same command goes on from there\n"
    assert not Path("a.zarr").exists()
    finish("a.zarr", done, values)


@pytest.mark.slow
def test_worker_processes_whose_client_is_killed(values: np.ndarray) -> None:
    assert convert("a.zarr", "--workers", 2, ends_after=6).returncode == -9
    finish("a.zarr", receipts("a.zarr"), values, "--workers", 2)


WHERE_A_WORKER_DIES = f"""
import os, signal, sys
from gpuknn.cli.main import main
from gpuknn.jobs import writing
write_piece = writing.write_piece
def write_or_die(rows, target, piece):
    if piece.start == {7 * PIECE} and not os.path.exists("died"):
        os.mkdir("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return write_piece(rows, target, piece)
writing.write_piece = write_or_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_death_of_a_worker(values: np.ndarray) -> None:
    cut = ["--shard-rows", str(PIECE), "--chunk-rows", "100", "--workers", "2", "--json"]
    words = [sys.executable, "-c", WHERE_A_WORKER_DIES, "convert", "source.npy", "a.zarr", *cut]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == PIECES
    assert Path("died").is_dir()
    assert open_vectors("a.zarr")[:].tobytes() == values.tobytes()


def test_no_worker_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Nobody(Executor):
        def submit(self, *task: object, **options: object) -> "Future[Any]":
            return Future()

    feeder = Feeder(Nobody().submit, lambda: 0, lambda: None, set)
    monkeypatch.setattr(Crew, "feeder", lambda *_: nullcontext(feeder))
    monkeypatch.setattr(feed, "LOST_AFTER", 0.1)
    monkeypatch.setattr(feed, "LOOK_EVERY", 0.01)
    assert main(["convert", "source.npy", "a.zarr"]) == 3
    assert "no scheduler or fitting worker was there for" in capsys.readouterr().err


def test_pieces_beside_a_failed_one_have_their_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fails when all others that were begun are on disk."""
    others, ended = 3, Semaphore(0)

    def write(rows: Converted, target: Target, piece: range) -> Piece:
        if piece.start == PIECE:
            for _ in range(others):
                assert ended.acquire(timeout=60)
            raise OSError(5, "a bad disk")
        receipt = write_piece(rows, target, piece)
        ended.release()
        return receipt

    monkeypatch.setattr(writing, "write_piece", write)
    for module in (conversion, crew):
        monkeypatch.setattr(module, "usable_cores", lambda: (others + 1) // crew.THREADS)
    cut = ["--shard-rows", str(PIECE), "--chunk-rows", "100", "--rows", f"0:{(others + 1) * PIECE}"]
    assert main(["convert", "source.npy", "a.zarr", *cut]) == 3
    assert receipts("a.zarr") == others


def test_replacing_an_existing_store_is_resumed(values: np.ndarray) -> None:
    assert convert("a.zarr", "--rows", "0:2000").returncode == 0
    assert convert("a.zarr", "--force", ends_after=4).returncode == -9
    assert len(open_vectors("a.zarr")) == 2000
    finish("a.zarr", 3, values, "--force")


def test_remains_of_another_conversion_are_refused(values: np.ndarray) -> None:
    convert("a.zarr", ends_after=4)
    other = convert("a.zarr", "--dtype", "float32")
    assert other.returncode == 2
    assert other.stderr == (
        "gpuknn: error: a.zarr.run: holds what another job has left (other: dtype); --fresh discards it\n"
    )
    os.utime("source.npy")
    changed = convert("a.zarr")
    assert (changed.returncode, "the files were changed since" in changed.stderr) == (2, True)
    finish("a.zarr", 0, values, "--fresh")


@pytest.mark.parametrize("name", ["queries", "gold"])
def test_files_beside_the_rows_are_known_again(name: str, values: np.ndarray) -> None:
    np.save("queries.npy", values[:20])
    search = ["exact", "source.npy", "queries.npy", "--metric", "l2", "-k", "5", "-o", "gold.h5", "--quiet"]
    assert main(search) == 0
    words = ["a.h5", "--to", "sisap", "--queries-file", "queries.npy", "--gold", "gold.h5"]
    assert convert(*words, ends_after=4).returncode == -9
    os.utime({"queries": "queries.npy", "gold": "gold.h5"}[name], (1, 1))
    other = convert(*words)
    assert (other.returncode, "the files were changed since" in other.stderr) == (2, True)
    assert convert(*words, "--fresh").returncode == 0


def test_pieces_of_another_size_are_not_taken(monkeypatch: pytest.MonkeyPatch, values: np.ndarray) -> None:
    assert convert("a.npy", ends_after=4).returncode == -9
    monkeypatch.setattr(target_module, "PIECE_BYTES", 3 * PIECE * D * 2)
    assert main(["convert", "source.npy", "a.npy"]) == 2
    assert main(["convert", "source.npy", "a.npy", "--fresh", "--quiet"]) == 0
    assert open_vectors("a.npy")[:].tobytes() == values.tobytes()


@pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow")
def test_parquet_is_on_disk_before_its_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    brought: set[tuple[int, int]] = set()
    write, fsync = write_receipt, os.fsync

    def fsync_and_tell(handle: int) -> None:
        fsync(handle)
        brought.add((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def check_and_write(folder: Path, *receipt: Any) -> None:
        status = os.stat(folder / "target")
        assert (status.st_ino, status.st_size) in brought
        write(folder, *receipt)

    monkeypatch.setattr(os, "fsync", fsync_and_tell)
    monkeypatch.setattr(writing, "write_receipt", check_and_write)
    assert main(["convert", "source.npy", "a.parquet", "--quiet"]) == 0


@pytest.mark.parametrize("kind", [InputError, RunError])
def test_a_source_that_cannot_be_read_at_the_end(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is kept."""

    def state(_: object) -> str:
        raise kind("s3://bucket: cannot be listed (timeout)")

    monkeypatch.setattr(conversion, "file_state", state)
    assert main(["convert", "source.npy", "a.npy"]) == 3
    assert receipts("a.npy") == 1


def test_a_folder_of_somebody_else_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.npy.run").mkdir()
    Path("a.npy.run/thesis.tex").write_text("precious")
    for options in ([], ["--fresh"]):
        assert main(["convert", "source.npy", "a.npy", *options]) == 2
        assert "is not a run directory, it holds thesis.tex" in capsys.readouterr().err
    assert Path("a.npy.run/thesis.tex").read_text() == "precious"


def test_one_client_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with record_of("a.npy").held(Identity(8 * "abcd", {}, "a job", 1, {}), fresh=False):
        assert main(["convert", "source.npy", "a.npy"]) == 3
    assert "at work" in capsys.readouterr().err


def on_a_small_disk(words: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))
    return main(words)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.npy"])
def test_no_room(name: str, values: np.ndarray) -> None:
    """The system refuses files larger than a few kilobytes, as a full disk would."""
    words = ["convert", "source.npy", name]
    done = forks.run(on_a_small_disk, words)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "run the same command again" in done.stderr
    assert [p.name for p in Path().iterdir()] == ["source.npy"]
    assert main(words) == 0
    assert open_vectors(name)[:].tobytes() == values.tobytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("name", "options"), [("a.zarr", []), ("a.h5", []), ("z.zarr", ["--compression", "zstd"])])
def test_full_disk(name: str, options: list[str], small_disk: Path, values: np.ndarray) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))
    words = ["convert", "source.npy", f"disk/{name}", *options]
    done = forks.run(main, words)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert not (small_disk / name).exists()
    ballast.unlink()
    assert main(words) == 0
    assert open_vectors(small_disk / name)[:].tobytes() == values.tobytes()
    assert [p.name for p in small_disk.iterdir()] == [name]


def test_bad_sources_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    content = Path("source.npy").read_bytes()
    Path("short.npy").write_bytes(content[:-3])
    Path("huge.fbin").write_bytes(struct.pack("<II", 2**31, 768) + bytes(3072))
    Path("uneven.fvecs").write_bytes(struct.pack("<i4f", 4, *[1.0] * 4) + struct.pack("<i3f", 3, *[1.0] * 3) + bytes(4))
    with h5py.File("cut.h5", "w") as file:
        file["emb"] = np.zeros((1000, 8), np.float32)
    with open("cut.h5", "r+b") as cut:
        cut.truncate(20_000)
    for name in ("short.npy", "huge.fbin", "uneven.fvecs", "cut.h5", "missing.h5"):
        for target in ("a.zarr", "a.h5"):
            assert main(["convert", name, target]) == 2
            said = capsys.readouterr().err
            assert said.startswith(f"gpuknn: error: {name}")
            assert said.count("\n") == 1
    assert not list(Path().glob("a.*"))


def test_a_source_cut_while_it_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write = write_receipt

    def write_and_cut(*receipt: Any) -> None:
        write(*receipt)
        os.truncate("source.npy", 5000)

    monkeypatch.setattr(writing, "write_receipt", write_and_cut)
    assert main(["convert", "source.npy", "a.zarr", "--shard-rows", "500", "--chunk-rows", "500"]) == 2
    assert "the file is truncated" in capsys.readouterr().err
    assert [p.name for p in Path().iterdir()] == ["source.npy"]


def test_a_source_changed_while_it_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write = write_receipt

    def write_and_touch(*receipt: Any) -> None:
        write(*receipt)
        os.utime("source.npy", (1, 1))

    monkeypatch.setattr(writing, "write_receipt", write_and_touch)
    assert main(["convert", "source.npy", "a.zarr"]) == 3
    assert "was changed while it was read" in capsys.readouterr().err
    assert not Path("a.zarr").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert main(["convert", "source.npy", "closed/a.npy"]) == 2
    assert "Permission denied" in capsys.readouterr().err
