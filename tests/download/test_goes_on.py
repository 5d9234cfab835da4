"""Downloads that break, are killed or run out of disk: the same command goes on, and replaces nothing."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import md5
from pathlib import Path

import pytest

from gpuknn.errors import InputError, Interrupted, RunError
from gpuknn.jobs.download import server, transfer
from gpuknn.jobs.download.digest import md5_of
from gpuknn.jobs.download.transfer import Transfer
from gpuknn.laion.held import held, keep_md5
from gpuknn.progress import Event
from gpuknn.storage.record import Record
from tests.download.one import BLOCK, CONTENT, NAME, OTHER, SIZE, body_bytes, broken, get, left, published
from tests.web import Fault, Web, serving


def test_a_broken_download_goes_on_where_it_was(web: Web, tmp_path: Path) -> None:
    """Every byte that was kept is asked for no more."""
    web.faults[NAME] = Fault(status=503, after=4)
    with pytest.raises(RunError, match="503"):
        get(tmp_path, published(web))
    there = held(tmp_path, published(web))
    assert there.state == "begun"
    assert there.bytes == body_bytes(web) > 0
    assert left(tmp_path) == [f"{NAME}.run"]
    web.faults.clear()
    web.asked.clear()
    done = get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert done.fetched == SIZE - there.bytes
    wanted = sum(stop - first for asked in web.asked if asked.range for first, stop in [asked.range])
    assert wanted < 1.5 * (SIZE - there.bytes)


@pytest.mark.parametrize("known", [True, False])
def test_a_part_of_another_version_is_not_gone_on_with(web: Web, tmp_path: Path, known: bool) -> None:
    broken(web, tmp_path, published(web, content=OTHER if known else None))
    web.files[NAME] = OTHER
    get(tmp_path, published(web, content=OTHER if known else None))
    assert (tmp_path / NAME).read_bytes() == OTHER
    assert body_bytes(web) >= SIZE


def test_a_mirror_goes_on_if_the_md5_sum_is_known(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path, published(web))
    with serving({NAME: CONTENT}) as mirror:
        mirror.faults[NAME] = Fault(no_etag=True)
        get(tmp_path, published(mirror))
        assert (tmp_path / NAME).read_bytes() == CONTENT
        assert body_bytes(mirror) < 0.9 * SIZE
    assert body_bytes(web) == 0


def test_another_address_without_md5_is_another_file(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path, published(web, content=None))
    with serving({NAME: OTHER}) as mirror:
        with pytest.raises(InputError, match="another job has left"):
            get(tmp_path, published(mirror, content=None))
        get(tmp_path, published(mirror, content=None), fresh=True)
    assert (tmp_path / NAME).read_bytes() == OTHER


def receipt(folder: Path) -> Path:
    return next((folder / f"{NAME}.run").glob("*/*-*.json"))


def spoil_receipt(folder: Path) -> None:
    receipt(folder).write_text("{}")


def spoil_bytes(folder: Path) -> None:
    next(folder.glob("*.run/*/target")).write_bytes(bytes(SIZE))


def spoil_length(folder: Path) -> None:
    next(folder.glob("*.run/*/target")).write_bytes(b"x")


def spoil_part(folder: Path) -> None:
    next(folder.glob("*.run/*/target")).unlink()


@pytest.mark.parametrize("spoil", [spoil_receipt, spoil_bytes, spoil_length, spoil_part])
def test_a_part_that_is_damaged_costs_only_time(web: Web, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    broken(web, tmp_path, published(web))
    spoil(tmp_path)
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]


def test_a_file_that_appears_meanwhile_is_not_replaced(web: Web, tmp_path: Path) -> None:
    def appear(event: Event) -> None:
        if event["event"] == "fetched":
            (tmp_path / NAME).write_text("mine")

    with pytest.raises(RunError, match="somebody has written a file of this name meanwhile"):
        get(tmp_path, published(web), told=appear)
    assert (tmp_path / NAME).read_text() == "mine"
    (tmp_path / NAME).unlink()
    web.asked.clear()
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert not web.asked  # all was there already


def test_the_same_where_the_disk_knows_no_links(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_no_room_is_told_before_anything_is_fetched(web: Web, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MiB are needed for 1 files; make room"):
        get(tmp_path, published(web, content=None, bytes=2**60))
    assert not web.asked
    assert left(tmp_path) == []


def test_no_room_for_a_file_whose_size_only_the_server_knows(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuknn.jobs.download.file.lacking", lambda _, need: "too little" if need > 999_000 else "")
    with pytest.raises(RunError, match="too little for database"):
        get(tmp_path, published(web))
    assert left(tmp_path) == []


def test_a_disk_that_fills_keeps_what_was_fetched(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    stopped: list[bool] = []

    def full(handle: int, piece: bytes, position: int) -> int:
        if position >= SIZE // 2 and not stopped:
            raise OSError(28, "No space left on device")
        return write(handle, piece, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match=r"database\.h5: cannot be written \(No space left on device\); set that right"):
        get(tmp_path, published(web))
    there = held(tmp_path, published(web)).bytes
    assert there > 0
    stopped.append(True)
    web.asked.clear()
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    wanted = sum(stop - first for asked in web.asked if asked.range for first, stop in [asked.range])
    assert wanted < 1.5 * (SIZE - there)


def test_an_interrupt_tells_what_is_kept(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = Fault(slow=500_000)

    def interrupt(event: Event) -> None:
        if event.get("bytes", 0) > SIZE // 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"0 of 1 files, and \d+ KiB in all, are kept in /.*, the same call goes on"):
        get(tmp_path, published(web), told=interrupt)
    there = held(tmp_path, published(web)).bytes
    assert there > SIZE // 2
    web.asked.clear()
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    wanted = sum(stop - first for asked in web.asked if asked.range for first, stop in [asked.range])
    assert wanted < 1.5 * (SIZE - there) + BLOCK


def test_two_at_once_on_one_folder(web: Web, tmp_path: Path) -> None:
    """One fetches the file, the other says who does and leaves it alone."""
    web.faults[NAME] = Fault(slow=300_000)
    errors: list[Exception] = []

    def first() -> None:
        get(tmp_path, published(web))

    thread = threading.Thread(target=first)
    thread.start()
    while not Record.beside(tmp_path / NAME).exists or not web.asked:
        time.sleep(0.005)
    with suppress(RunError):
        try:
            get(tmp_path, published(web))
        except RunError as error:
            errors.append(error)
            raise
    thread.join()
    assert "is at work on this run" in str(errors[0])
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]


COMMAND = (
    "import sys; from gpuknn.jobs.download import transfer; transfer.BLOCK_BYTES = 500_000; "
    "transfer.SECONDS_BETWEEN_KEEPING = 0.05; from gpuknn.__main__ import command; command()"
)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_the_middle_at_most_the_last_moment_is_fetched_again(
    web: Web, tmp_path: Path, by: signal.Signals
) -> None:
    content = random.Random(5).randbytes(4_000_000)
    web.files[NAME], web.faults[NAME] = content, Fault(slow=500_000)
    catalogue, folder = tmp_path / "catalogue.toml", tmp_path / "data"
    row = f'{{name = "{NAME}", bundle = "b", kind = "database", md5 = "{md5(content).hexdigest()}"}}'
    catalogue.write_text(f'base_url = "{web.url}"\nbundles = [{{name = "b"}}]\nfiles = [{row}]')
    words = [
        sys.executable,
        "-c",
        COMMAND,
        "data",
        "get",
        "b",
        "--catalogue",
        str(catalogue),
        "--data-dir",
        str(folder),
    ]
    sent = []
    for again in range(3):
        web.asked.clear()
        with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            while again < 2 and process.poll() is None and body_bytes(web) < 1_000_000:
                time.sleep(0.01)
            if again < 2:
                process.send_signal(by)
            said = process.communicate()[1]
        sent.append(body_bytes(web))
        assert process.returncode == ((-9 if by == signal.SIGKILL else 130) if again < 2 else 0), said
    assert (folder / NAME).read_bytes() == content
    assert sum(sent) < len(content) + 2 * 700_000  # twice what comes in a third of a second, and what was under way
    assert left(folder) == [NAME]


def test_killed_between_its_name_and_the_end_of_its_record(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Record) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "remove", killed)
        with pytest.raises(Interrupted, match="1 of 1 files"):
            get(tmp_path, published(web))
    assert left(tmp_path) == [NAME, f"{NAME}.run"]
    web.asked.clear()
    done = get(tmp_path, published(web))
    assert [each.state for each in done.files] == ["verified"]
    assert not web.asked
    assert left(tmp_path) == [NAME]


def test_killed_between_its_last_byte_and_its_name(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "SECONDS_BETWEEN_KEEPING", 0)
    with monkeypatch.context() as patch:
        patch.setattr(Record, "publish", killed)
        with pytest.raises(Interrupted, match="0 of 1 files"):
            get(tmp_path, published(web))
    web.asked.clear()
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert body_bytes(web) < SIZE // 2


def test_late_bytes_reach_no_other_file(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may outlast its transfer: then neither the part's name nor the handle's number is the transfer's."""
    write, begun, goes_on = transfer._write, threading.Event(), threading.Event()

    def late(handle: int, piece: bytes, position: int) -> None:
        begun.set()
        assert goes_on.wait(10)
        write(handle, piece, position)

    def stop(_: int) -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "_write", late)
    part = tmp_path / "part"
    part.touch()
    with server.web(1) as client:
        with pytest.raises(KeyboardInterrupt):
            Transfer(client, f"{web.url}/{NAME}", part, lambda _: None).run(stop, lambda *_: None)
        part.unlink()
        part.touch()
        others = [open(tmp_path / f"other{n}", "w+b") for n in range(20)]  # noqa: SIM115 - closed below
        goes_on.set()
        for thread in [thread for thread in threading.enumerate() if thread.name == "gpuknn-download"]:
            thread.join(10)
    for other in others:
        other.close()
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {0}


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_later_on_keeps_what_was_fetched(web: Web, tmp_path: Path, code: int) -> None:
    """A login page, an address that has expired: the next time it may go on."""
    web.faults[NAME] = Fault(status=code, after=4)
    with pytest.raises(InputError, match=str(code)):
        get(tmp_path, published(web))
    there = held(tmp_path, published(web)).bytes
    assert there >= BLOCK
    web.faults.clear()
    web.faults[NAME] = Fault(status=code)
    with pytest.raises(InputError, match=str(code)):
        get(tmp_path, published(web))
    assert held(tmp_path, published(web)).bytes == there
    web.faults.clear()
    done = get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert done.fetched == SIZE - there


def test_md5_of_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    ends = iter([10, 10_000, 10_001, SIZE, SIZE])
    with open(path, "rb") as file:
        assert md5_of(file.fileno(), lambda _: next(ends)) == md5(CONTENT).hexdigest()
        assert md5_of(file.fileno(), lambda position: 10 if not position else None) is None
        with pytest.raises(OSError, match="has ended at byte"):
            md5_of(file.fileno(), lambda _: SIZE + 1)


def test_a_receipt_counts_for_the_bytes_that_it_was_written_for(web: Web, tmp_path: Path) -> None:
    get(tmp_path, published(web))
    assert held(tmp_path, published(web)).state == "verified"
    path = tmp_path / NAME
    path.write_bytes(OTHER)
    os.utime(path, ns=(1, 1))
    assert held(tmp_path, published(web)).state == "here"
    keep_md5(path, md5(OTHER).hexdigest())
    assert held(tmp_path, published(web)).state == "wrong"


@pytest.mark.parametrize(
    ("extents", "size", "blocks"),
    [
        ([], 250, [(0, 0, 100), (100, 100, 200), (200, 200, 250)]),
        ([(0, 250)], 250, [(0, 250, 250)]),
        ([(0, 30), (100, 120)], 130, [(0, 30, 30), (30, 30, 100), (100, 120, 120), (120, 120, 130)]),
    ],
)
def test_blocks_are_what_is_there_and_the_gaps(
    extents: list[tuple[int, int]], size: int, blocks: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 100)
    cut = transfer._cut(extents, size)
    assert [(b.start, b.position, b.stop) for b in cut] == blocks
    assert transfer._merged(cut) == extents
