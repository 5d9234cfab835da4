"""Servers that do everything wrong: the right bytes under the right name in the end, or a clear error."""

import random
from hashlib import md5
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpuknn.errors import InputError, RunError
from gpuknn.jobs.download import server
from gpuknn.laion.catalogue import RemoteFile
from gpuknn.progress import Event
from tests.download.one import BLOCK, CONTENT, NAME, OTHER, SIZE, body_bytes, get, left, published
from tests.web import Fault, Web, serving


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
    "ranges in small pieces": Fault(short=9_000),
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
    "no range ever": (Fault(status=416), RunError, "sends no parts of it"),
    "always busy": (Fault(status=503), RunError, "503 Service Unavailable; it was tried 6 times"),
    "always too many": (Fault(status=429, retry_after=1), RunError, "429 Too Many Requests"),
    "to a file": (Fault(redirect="file:///etc/passwd"), InputError, "redirected to 'file:/etc/passwd'"),
    "to another scheme": (Fault(redirect="ftp://127.0.0.1/x"), InputError, "no address of the web"),
    "in a circle": (Fault(redirect=f"/{NAME}"), InputError, "redirected more than 10 times"),
    "wrong bytes": (Fault(wrong_at=500_000), InputError, "in the catalogue"),
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
    with pytest.raises(InputError, match=r"part03.*404.*2 files could not be had: part03\.npy, part07\.npy"):
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
    with pytest.raises(InputError, match=r"its md5 sum is .* in the catalogue"):
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
