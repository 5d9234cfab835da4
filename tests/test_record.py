"""What survives of a job, and whose it is."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from gpuknn.errors import InputError, RunError
from gpuknn.jobs.exact.partial import find_partial, find_partials, write_partial
from gpuknn.storage.record import Identity, Record
from tests.answers import neighbors


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
