"""Downloads from servers that do everything wrong: the right bytes under the right name, or a clear error."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import md5
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpuknn.errors import InputError, Interrupted, RunError
from gpuknn.jobs.download import server, transfer
from gpuknn.jobs.download.digest import md5_of
from gpuknn.jobs.download.plan import plan_download
from gpuknn.jobs.download.run import Outcome, run_download
from gpuknn.jobs.download.transfer import Transfer
from gpuknn.laion.catalogue import RemoteFile
from gpuknn.laion.held import held, keep_md5
from gpuknn.progress import Event, Listener
from gpuknn.storage.record import Record
from tests.web import Fault, Web, serving

SIZE = 1_000_000
BLOCK = 100_000
CONTENT = random.Random(16).randbytes(SIZE)
OTHER = random.Random(17).randbytes(SIZE)
NAME = "database.h5"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and short pauses, so that what takes minutes takes a moment."""
    monkeypatch.setattr(transfer, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(transfer, "HALVED_BYTES", 10_000)
    monkeypatch.setattr(transfer, "HALVED_AFTER", 0.02)
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(transfer, "GETTING_ON", 10_000)
    monkeypatch.setattr(transfer, "SECONDS_BETWEEN_KEEPING", 0.02)
    monkeypatch.setattr(transfer, "SECONDS_BETWEEN_TELLING", 0.01)
    monkeypatch.setattr(server, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(server, "SLOW_SECONDS", 0.2)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving({NAME: CONTENT}) as made:
        yield made


def published(web: Web, name: str = NAME, content: bytes | None = CONTENT, **fields: Any) -> RemoteFile:
    """A catalogue's row; without `content` no md5 sum is known."""
    known = {} if content is None else {"md5": md5(content).hexdigest()}
    return RemoteFile(name, "b", "database", f"{web.url}/{name}", **(known | fields))


def get(folder: Path, *files: RemoteFile, told: Listener = lambda _: None, fresh: bool = False) -> Outcome:
    return run_download(plan_download(files, folder, fresh, ["data", "get", NAME]), told)


def left(folder: Path) -> list[str]:
    """Names in a folder, but for that of the receipts."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".gpuknn")


def body_bytes(web: Web) -> int:
    return sum(asked.sent for asked in web.asked if asked.status in (200, 206))


def test_a_file_is_fetched_by_several_connections_each_byte_once(web: Web, tmp_path: Path) -> None:
    done = get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert [each.state for each in done.files] == ["verified"]
    assert done.fetched == SIZE
    assert left(tmp_path) == [NAME]
    ranges = [asked.range for asked in web.asked]
    assert (0, BLOCK) in ranges
    assert len(ranges) >= 10
    assert body_bytes(web) < 1.3 * SIZE  # a half that was taken over may have been on its way


RIGHT: dict[str, Fault | list[Fault]] = {
    "connections break": Fault(drops=0.5, seed=1),
    "connections are reset": Fault(drops=0.5, resets=True, seed=2),
    "connections break early": Fault(drops=0.7, drops_within=30_000, seed=3),
    "nothing tells a version": Fault(no_validators=True, drops=0.3),
    "no etag": Fault(no_etag=True, drops=0.3),
    "a weak etag": Fault(weak_etag=True, drops=0.3),
    "no ranges": Fault(ignores_range=True),
    "no ranges, and a connection breaks": [Fault(ignores_range=True), Fault(drops=1, times=2, seed=4)],
    "no ranges from the third request on": Fault(ignores_range=True, after=2),
    "no length": [Fault(ignores_range=True), Fault(no_length=True)],
    "no length, and a connection breaks": [Fault(ignores_range=True), Fault(no_length=True), Fault(drops=1, times=2)],
    "busy for a while": Fault(status=503, times=3),
    "asks to wait": Fault(status=429, times=2, retry_after=1),
    "asks to wait until a date": Fault(status=429, times=2, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "an error for a while": Fault(status=500, times=3),
    "no such range, once": Fault(status=416, after=3, times=1),
    "wrong bytes once": Fault(wrong_bytes=True, times=1),
    "too short an answer": Fault(length_off=-40_000, times=3),
    "too long a length": Fault(length_off=50, times=3),
    "another range than was asked for": Fault(range_off=7, times=2),
    "another total": Fault(total_off=5, after=2, times=1),
    "not HTTP": Fault(garbage=b"\x00\xff nothing\r\n\r\n", times=2),
    "no answer": Fault(garbage=b"", times=2),
    "an endless head": Fault(endless_head=True, times=1),
    "silence in the middle": Fault(stalls=20_000, times=2),
    "silence from the start": Fault(stalls=-1, times=1),
    "crawls": Fault(slow=2_000, times=3),
}
"""What ends with the right bytes."""


@pytest.mark.parametrize("fault", RIGHT.values(), ids=RIGHT)
def test_right_in_the_end(web: Web, tmp_path: Path, fault: Fault | list[Fault]) -> None:
    web.faults[NAME] = fault
    said: list[Event] = []
    get(tmp_path, published(web), told=said.append)
    assert (tmp_path / NAME).read_bytes() == CONTENT, said
    assert left(tmp_path) == [NAME]


WRONG: dict[str, tuple[Fault | list[Fault], type[Exception], str]] = {
    "no such file": (Fault(status=404), InputError, "404 Not Found"),
    "gone": (Fault(status=410), InputError, "410 Gone"),
    "not allowed": (Fault(status=403), InputError, "403 Forbidden"),
    "no range ever": (Fault(status=416), RunError, "no bytes from 0 on"),
    "always busy": (Fault(status=503), RunError, "503 Service Unavailable; it was tried 6 times"),
    "always too many": (Fault(status=429, retry_after=1), RunError, "429 Too Many Requests"),
    "to a file": (Fault(redirect="file:///etc/passwd"), InputError, "redirected to 'file:/etc/passwd'"),
    "to another scheme": (Fault(redirect="ftp://127.0.0.1/x"), InputError, "no address of the web"),
    "in a circle": (Fault(redirect=f"/{NAME}"), InputError, "redirected more than 10 times"),
    "wrong bytes": (Fault(wrong_at=500_000), RunError, "in the catalogue"),
    "packed": (Fault(packed=True), InputError, "packed (gzip)"),
    "a page": (Fault(html=True), InputError, "text/html"),
    "not HTTP": (Fault(garbage=b"ssh-2.0\r\n\r\n"), RunError, "the connection broke"),
    "an end that nobody can tell": (
        [Fault(ignores_range=True), Fault(until_close=True)],
        InputError,
        "does not tell how long it is",
    ),
    "silence": (Fault(stalls=-1), RunError, "silent for"),
    "another range": (Fault(range_off=7), RunError, "other bytes than those that were asked for"),
}
"""What ends with an error of one line, which says this."""


@pytest.mark.parametrize(("fault", "kind", "said"), WRONG.values(), ids=WRONG)
def test_a_clear_error_and_no_file(
    web: Web, tmp_path: Path, fault: Fault, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SILENT_SECONDS", 0.05)
    web.faults[NAME] = fault
    with pytest.raises(kind) as error:
        get(tmp_path, published(web))
    assert said in str(error.value)
    assert web.url in str(error.value)
    assert "\n" not in str(error.value)
    assert left(tmp_path) == []


def test_files_that_cannot_be_had_keep_no_other_waiting(web: Web, tmp_path: Path) -> None:
    names = [f"part{n:02}.npy" for n in range(20)]
    for n, name in enumerate(names):
        web.files[name] = random.Random(n).randbytes(1_000 * (n + 1))
    files = [published(web, name, web.files[name]) for name in names]  # type: ignore[arg-type]
    web.faults[names[3]], web.faults[names[7]] = Fault(status=404), Fault(wrong_at=5)
    web.faults[names[11]] = Fault(drops=0.5, drops_within=3_000)
    said: list[Event] = []
    with pytest.raises(RunError, match=r"part07.*2 files are missing: part03\.npy, part07\.npy"):
        get(tmp_path, *files, told=said.append)
    assert left(tmp_path) == [name for name in names if name not in (names[3], names[7])]
    assert all((tmp_path / name).read_bytes() == web.files[name] for name in left(tmp_path))
    assert [e["line"].partition(";")[0] for e in said if e["event"] == "said" and "left out" in e["line"]] == [
        f"{name}: left out for now" for name in (names[3], names[7])
    ]
    web.faults.clear()
    web.asked.clear()
    get(tmp_path, *files)
    assert {asked.name for asked in web.asked} == {names[3], names[7]}


@pytest.mark.parametrize("cuts", [False, True])
def test_a_file_that_changes_on_its_way_is_fetched_anew(web: Web, tmp_path: Path, cuts: bool) -> None:
    web.faults[NAME] = Fault(changes_to=OTHER, changes_after=SIZE // 2, cuts=cuts)
    said: list[Event] = []
    get(tmp_path, published(web, content=OTHER), told=said.append)
    assert (tmp_path / NAME).read_bytes() == OTHER
    assert any("another version of it now; it is fetched from the beginning" in e.get("line", "") for e in said)


def test_a_file_without_md5_that_changes_on_its_way_is_of_one_version(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = Fault(changes_to=OTHER, changes_after=SIZE // 2)
    done = get(tmp_path, published(web, content=None))
    assert (tmp_path / NAME).read_bytes() == OTHER
    assert [(each.state, each.md5) for each in done.files] == [("here", md5(OTHER).hexdigest())]


def test_a_file_that_was_wrong_is_wrong_when_it_changes_back(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = Fault(changes_to=OTHER, changes_after=SIZE // 2)
    with pytest.raises(RunError, match=r"its md5 sum is .* in the catalogue"):
        get(tmp_path, published(web))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bytes": SIZE + 1}, "has 1,000,000 bytes there, and 1,000,001 in the catalogue"),
        ({"size": "1M"}, None),
        ({"size": "7.7M"}, "has 1,000,000 bytes there, and 7.7M in the catalogue"),
        ({"size": "783K"}, "and 783K in the catalogue"),
        ({"size": "977K"}, None),
    ],
)
def test_a_size_that_is_not_the_catalogues_is_refused_at_once(
    web: Web, tmp_path: Path, fields: dict[str, Any], said: str | None
) -> None:
    if said is None:
        get(tmp_path, published(web, **fields))
        return
    with pytest.raises(InputError, match=said):
        get(tmp_path, published(web, **fields))
    assert left(tmp_path) == []
    assert body_bytes(web) <= 2 * BLOCK


def test_a_redirect_to_another_host_is_followed(web: Web, tmp_path: Path) -> None:
    with serving({"elsewhere": CONTENT}) as other:
        web.faults[NAME] = Fault(redirect=f"{other.url.replace('127.0.0.1', 'localhost')}/elsewhere")
        get(tmp_path, published(web))
        assert (tmp_path / NAME).read_bytes() == CONTENT
        assert body_bytes(other) >= SIZE


def test_the_environments_proxy_is_asked(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", web.url)
    web.files[f"http://nowhere.invalid/{NAME}"] = CONTENT
    get(tmp_path, RemoteFile(NAME, "b", "database", f"http://nowhere.invalid/{NAME}", md5=md5(CONTENT).hexdigest()))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_proxy_that_is_no_address(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    with pytest.raises(InputError, match="the environment's proxies or certificates cannot be used"):
        get(tmp_path, published(web))


@pytest.mark.parametrize("into", ["nowhere", "."])
def test_what_is_in_the_way_is_told_before_anything_is_fetched(web: Web, tmp_path: Path, into: str) -> None:
    (tmp_path / NAME).symlink_to(into)
    with pytest.raises(InputError, match="is in the way and no file"):
        get(tmp_path, published(web))
    assert not web.asked


def test_no_redirect_from_https_to_http() -> None:
    response = httpx.Response(302, headers={"Location": "http://a/x"}, request=httpx.Request("GET", "https://a/x"))
    with pytest.raises(InputError, match="from https to http"):
        server._check_redirect(response)


def test_a_password_in_an_address_is_not_shown(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = Fault(status=404)
    url = web.url.replace("://", "://me:secret@")
    with pytest.raises(InputError) as error:
        get(tmp_path, RemoteFile(NAME, "b", "database", f"{url}/{NAME}"))
    assert "secret" not in str(error.value)
    assert web.asked[0].headers["Authorization"]


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


def broken(web: Web, folder: Path, file: RemoteFile) -> None:
    """Leave a part of a file in the folder."""
    web.faults[file.name] = Fault(status=503, after=4)
    with pytest.raises(RunError):
        get(folder, file)
    web.faults.clear()
    web.asked.clear()
    assert held(folder, file).bytes


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


def test_without_md5_and_version_nothing_is_gone_on_with(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = [Fault(no_validators=True), Fault(status=503, after=4)]
    with pytest.raises(RunError):
        get(tmp_path, published(web, content=None))
    web.files[NAME], web.faults[NAME] = OTHER, Fault(no_validators=True)
    web.asked.clear()
    get(tmp_path, published(web, content=None))
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

    with pytest.raises(InputError, match="somebody has written a file of this name meanwhile"):
        get(tmp_path, published(web), told=appear)
    assert (tmp_path / NAME).read_text() == "mine"
    assert left(tmp_path) == [NAME]


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
    with pytest.raises(OSError, match="No space left"):
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
    def interrupt(event: Event) -> None:
        if event.get("bytes", 0) > SIZE // 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"0 of 1 files, and \d+ KiB in all, are kept, the same call goes on"):
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


def test_of_late_bytes_none_reaches_the_next_beginning(web: Web, tmp_path: Path) -> None:
    """A connection that outlasts its transfer has a file of its own."""
    part = tmp_path / "part"
    part.touch()
    with server.web(1) as client:
        first = Transfer(client, f"{web.url}/{NAME}", part, lambda _: None)
        web.faults[NAME] = Fault(slow=400_000)

        def stop(count: int) -> None:
            if count:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            first.run(stop, lambda *_: None)
        part.unlink()
        part.write_bytes(bytes(SIZE))
        time.sleep(0.3)
        assert part.read_bytes() == bytes(SIZE)


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
