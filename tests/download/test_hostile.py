"""Answers, addresses and folders that somebody has made to do harm: no wrong byte, no hang, no traceback."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuknn.errors import InputError, RunError
from gpuknn.jobs.download import server, transfer
from gpuknn.jobs.download.server import Version
from gpuknn.jobs.download.verify import verify
from gpuknn.laion.held import RECEIPTS, held
from gpuknn.progress import Event
from gpuknn.storage.durable import write_sealed
from gpuknn.storage.record import Record
from tests.download.one import BLOCK, CONTENT, NAME, OTHER, SIZE, body_bytes, broken, get, left, published
from tests.web import Fault, Web

PART = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes "
RIGHT = {
    "a last byte behind the end": PART + b"0-9/5\r\n\r\n0123456789",
    "a range of an empty file": PART + b"0-9/0\r\n\r\n0123456789",
    "a size of 5000 digits": PART + b"0-9/" + b"9" * 5000 + b"\r\n\r\n0123456789",
    "a range of no bytes": PART + b"5-4/10\r\n\r\n0123456789",
    "digits that are not ASCII": PART + "0-٩/10\r\n\r\n0123456789".encode(),
    "a redirect whose body cannot be unpacked": b"HTTP/1.1 302 x\r\nLocation: /database.h5\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a redirect without end": b"HTTP/1.1 302 x\r\nLocation: /database.h5\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1000\r\n"
    + b"x" * 4096
    + b"\r\n",
    "headers of the terminal": b"HTTP/1.1 503 \x1b[31m\r\nContent-Length: 0\r\n\r\n",
}
"""First answers, as they are sent; the second is sound."""


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_odd_answers(web: Web, tmp_path: Path, answer: bytes) -> None:
    web.faults[NAME] = Fault(garbage=answer, times=1)
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_no_more_bytes_than_an_answer_has_announced(web: Web, tmp_path: Path) -> None:
    """What is beyond the announced range is nobody's word."""
    long = b"HTTP/1.1 206 x\r\nContent-Length: 50\r\nContent-Range: bytes 0-9/1000000\r\n\r\n" + b"!" * 50
    web.faults[NAME] = Fault(garbage=long, times=1)
    get(tmp_path, published(web, content=b"!" * 10 + CONTENT[10:]))
    assert body_bytes(web) < 1.3 * SIZE  # right at once


def test_a_length_beside_chunks_says_nothing(web: Web, tmp_path: Path) -> None:
    both = b"HTTP/1.1 200 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"
    web.faults[NAME] = Fault(garbage=both)
    get(tmp_path, published(web, content=None))
    assert (tmp_path / NAME).read_bytes() == b"0123456789"


@pytest.mark.parametrize("host", ["a..b", "...", "x" * 70, "xn--a"])
def test_hosts_that_are_none(host: str, web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = Fault(redirect=f"http://{host}/x")
    with pytest.raises(InputError, match=r"database\.h5: .*no address"):
        get(tmp_path, published(web))
    assert left(tmp_path) == []


def test_a_file_that_does_not_end_is_left_at_the_catalogues_size(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = [Fault(ignores_range=True), Fault(no_length=True)]
    with pytest.raises(InputError, match="is longer than in the catalogue"):
        get(tmp_path, published(web, bytes=200_000))
    assert left(tmp_path) == []


def test_a_server_that_only_drips_is_given_up(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of a head comes in time, and the head never ends."""
    monkeypatch.setattr(transfer, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(server, "SILENT_SECONDS", 20.0)
    web.faults[NAME] = Fault(stalls=-1)
    with pytest.raises(RunError, match="nothing has come for"):
        get(tmp_path, published(web))


def test_a_block_is_one_connections_while_another_pauses(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that wrote at one position would leave out what comes between."""
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 0.4)
    web.faults[NAME] = [Fault(slow=400_000), Fault(status=503, retry_after=9, after=2, times=1)]
    get(tmp_path, published(web, content=None))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert body_bytes(web) < 1.4 * SIZE


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (Version(5, "a"), Version(5, "a"), True),
        (Version(5, "a"), Version(6, "a"), False),
        (Version(0), Version(5), False),
        (Version(None, "a"), Version(5, "a"), True),
        (Version(5, "a", "x"), Version(5, "a", "y"), True),  # machines that serve the same file
        (Version(5, "a", "x"), Version(5, "b", "x"), False),
        (Version(5, "", "x"), Version(5, "a", "x"), True),
        (Version(5, "", "x"), Version(5, "", "y"), False),
        (Version(5, "a"), Version(5, "", "x"), False),  # told in ways that cannot be compared
        (Version(5), Version(5, "a"), True),  # a mirror's; the md5 sum decides
    ],
)
def test_versions(ours: Version, theirs: Version, same: bool) -> None:
    assert ours.same(theirs) is theirs.same(ours) is same


@pytest.mark.parametrize(
    ("etag", "asked"),
    [('"a"', {"If-Range": '"a"'}), ('W/"a"', {}), ('"\xe9"', {}), ("a", {}), ('"a"b"', {}), ("", {})],
)
def test_only_a_sound_etag_is_sent_back(etag: str, asked: dict[str, str]) -> None:
    assert Version(5, etag).condition == asked


@pytest.mark.parametrize("fault", [Fault(ignores_range=True, times=1), Fault(status=416, times=1)])
def test_one_odd_answer_costs_no_progress(fault: Fault, web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path, published(web))
    there = held(tmp_path, published(web)).bytes
    web.faults[NAME] = fault
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    wanted = sum(stop - first for asked in web.asked if asked.range for first, stop in [asked.range])
    assert wanted < 1.5 * (SIZE - there) + 2 * BLOCK


def test_what_another_has_fetched_meanwhile_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    web.files["second"] = OTHER

    def told(event: Event) -> None:
        if event["event"] == "file" and event["name"] == NAME:
            (tmp_path / "second").write_bytes(OTHER)

    done = get(tmp_path, published(web), published(web, "second", OTHER), told=told)
    assert [each.state for each in done.files] == ["verified", "verified"]
    assert {asked.name for asked in web.asked} == {NAME}


def forge(folder: Path, **said: object) -> Path:
    """A receipt of an unfinished download as it pleases somebody; the part beside it."""
    (job,) = [path for path in (folder / f"{NAME}.run").iterdir() if path.is_dir()]
    for receipt in job.glob("*-*.json"):
        before = json.loads(receipt.read_text())
        receipt.unlink()
    before.pop("seal")
    write_sealed(job / f"{0:012d}-{BLOCK:012d}.json", before | said)
    return job / "target"


@pytest.mark.parametrize(
    "said",
    [
        {"extents": [[0, float("inf")]]},
        {"extents": [[0, 10**30]]},
        {"extents": [[-5, 10]]},
        {"extents": [[10, 5]]},
        {"extents": 7},
        {"version": {"size": SIZE, "etag": 5}},
        {"version": {"size": SIZE, "etag": None}},
        {"version": {"size": SIZE, "modified": ["x"]}},
        {"version": {"size": "7"}},
        {"version": {"sizes": 7}},
        {"url": None},
    ],
    ids=str,
)
def test_forged_receipts(said: dict[str, object], web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path, published(web))
    forge(tmp_path, **said)
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_file_of_unknown_length_that_breaks_ends_where_the_server_says(web: Web, tmp_path: Path) -> None:
    """The first answer has no length and breaks; the next is a part, and not the last one."""
    web.faults[NAME] = [
        Fault(ignores_range=True, times=1),
        Fault(no_length=True, times=1),
        Fault(drops=1, drops_within=300_000, times=1),
        Fault(short=200_000),
    ]
    get(tmp_path, published(web, content=None))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_without_md5_and_version_two_versions_are_not_mixed(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = Fault(no_validators=True, changes_to=OTHER, changes_after=SIZE // 2)
    get(tmp_path, published(web, content=None))
    assert (tmp_path / NAME).read_bytes() in (CONTENT, OTHER)


def test_odd_answers_now_and_then_cost_nothing(web: Web, tmp_path: Path) -> None:
    web.faults[NAME] = [Fault(status=416, after=n, times=1) for n in (3, 6, 9, 12)]
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert body_bytes(web) < 1.3 * SIZE


def test_a_file_that_changes_while_it_is_verified_is_not_called_verified(web: Web, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)

    def change(event: Event) -> None:
        if event["event"] == "verified":
            os.utime(tmp_path / NAME, ns=(5, 5))

    with pytest.raises(RunError, match="was changed while it was read"):
        verify([held(tmp_path, published(web))], change)
    assert held(tmp_path, published(web)).state == "here"


def test_what_an_unfinished_download_has_left_goes_once_the_file_is_there(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path, published(web))
    (tmp_path / NAME).write_bytes(CONTENT)
    get(tmp_path, published(web))
    assert left(tmp_path) == [NAME]
    assert not web.asked


def test_a_file_that_another_is_at_may_be_there_in_the_end(web: Web, tmp_path: Path) -> None:
    def told(event: Event) -> None:
        if event["event"] == "said" and "left out" in event["line"]:
            (tmp_path / NAME).write_bytes(CONTENT)

    web.files["second"], web.faults[NAME] = OTHER, Fault(status=404)
    done = get(tmp_path, published(web), published(web, "second", OTHER), told=told)
    assert [each.state for each in done.files] == ["verified", "verified"]


def test_a_part_that_is_a_link_is_not_written_through(web: Web, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    broken(web, tmp_path / "data", published(web))
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(SIZE))
    part = forge(tmp_path / "data")
    part.unlink()
    part.symlink_to(precious)
    get(tmp_path / "data", published(web))
    assert precious.read_bytes() == bytes(SIZE)
    assert (tmp_path / "data" / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("make", [lambda path: path.write_text("x"), lambda path: path.symlink_to("elsewhere")])
def test_receipts_that_cannot_be_kept_are_told_before(make: Callable[[Path], None], web: Web, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / RECEIPTS)
    with pytest.raises(InputError, match="is in the way and no folder"):
        get(tmp_path, published(web))
    assert not web.asked
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_pipes_do_not_keep_us_waiting(web: Web, tmp_path: Path) -> None:
    (tmp_path / RECEIPTS).mkdir()
    os.mkfifo(tmp_path / RECEIPTS / f"{NAME}.json")
    (tmp_path / NAME).write_bytes(CONTENT)
    assert held(tmp_path, published(web)).state == "here"
    (tmp_path / NAME).unlink()
    record = Record.beside(tmp_path / NAME)
    record.path.mkdir()
    os.mkfifo(record.path / "manifest.json")
    get(tmp_path, published(web))
    assert (tmp_path / NAME).read_bytes() == CONTENT
