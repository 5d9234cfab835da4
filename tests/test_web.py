"""What a plain client sees of the server in `web.py`: the sound behaviour and each fault."""

import gzip
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, LineTooLong
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.web import Fault, Web, serving

DATA = bytes(range(256)) * 8192
"""2 MiB, more than a connection takes at once."""
RANGE = {"Range": "bytes=100-199"}


@pytest.fixture(params=["bytes", "file"])
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Web]:
    path = tmp_path / "a b.bin"
    path.write_bytes(DATA)
    with serving({"a b.bin": DATA if request.param == "bytes" else path}) as web:
        yield web


def ask(web: Web, method: str = "GET", name: str = "a%20b.bin", **headers: str) -> tuple[HTTPResponse, bytes]:
    """On a connection of its own."""
    connection = HTTPConnection(web.url.removeprefix("http://"), timeout=5)
    connection.request(method, f"/{name}", headers={key.replace("_", "-"): value for key, value in headers.items()})
    try:
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def asked(web: Web, fault: Fault | list[Fault], **headers: str) -> tuple[HTTPResponse, bytes]:
    web.faults["a b.bin"] = fault
    return ask(web, **headers)


def test_whole_file(web: Web) -> None:
    response, body = ask(web)
    assert (response.status, body, response.headers["Accept-Ranges"]) == (200, DATA, "bytes")
    assert response.headers["ETag"][0] == '"'
    first = web.asked[0]
    assert (first.name, first.range, first.status, first.sent) == ("a b.bin", None, 200, len(DATA))
    head, nothing = ask(web, "HEAD")
    assert (head.status, nothing, web.asked[1].sent) == (200, b"", 0)
    assert {**head.headers, "Date": ""} == {**response.headers, "Date": ""}
    assert ask(web, name="other")[0].status == 404


@pytest.mark.parametrize(
    ("asks", "first", "stop"),
    [("0-0", 0, 1), ("100-199", 100, 200), ("2000000-", 2000000, len(DATA)), ("-5", len(DATA) - 5, len(DATA))],
)
def test_range(web: Web, asks: str, first: int, stop: int) -> None:
    response, body = ask(web, Range=f"bytes={asks}")
    assert (response.status, body) == (206, DATA[first:stop])
    assert response.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(DATA)}"
    assert web.asked[0].range == (first, stop)


def test_range_that_is_none(web: Web) -> None:
    response, body = ask(web, Range=f"bytes={len(DATA)}-")
    assert (response.status, body, response.headers["Content-Range"]) == (416, b"", f"bytes */{len(DATA)}")
    assert ask(web, Range="bytes=0-9999999")[0].headers["Content-Range"] == f"bytes 0-{len(DATA) - 1}/{len(DATA)}"
    for asks in ["bytes=5-4", "bytes=x-", "bytes=-", "lines=1-2", "bytes=1-2,4-5"]:
        assert ask(web, Range=asks)[0].status == 200


def test_if_range(web: Web) -> None:
    headers = ask(web)[0].headers
    for matches in [headers["ETag"], headers["Last-Modified"]]:
        assert ask(web, If_Range=matches, **RANGE)[0].status == 206
    assert ask(web, If_Range='"other"', **RANGE)[0].status == 200
    web.files["a b.bin"] = DATA[1:]
    assert ask(web, If_Range=headers["ETag"], **RANGE)[0].status == 200
    assert ask(web, If_Range=headers["Last-Modified"], **RANGE)[0].status == 200


def test_keeps_the_connection(web: Web) -> None:
    connection = HTTPConnection(web.url.removeprefix("http://"), timeout=5)
    connection.connect()
    kept = connection.sock
    for _ in range(3):
        connection.request("GET", "/a%20b.bin", headers=RANGE)
        assert connection.getresponse().read() == DATA[100:200]
        assert connection.sock is kept
    connection.close()


def test_many_at_once(web: Web) -> None:
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda _: ask(web)[1], range(32))) == {DATA}
    assert [one.sent for one in web.asked] == [len(DATA)] * 32


@pytest.mark.parametrize("resets", [False, True])
def test_drops(web: Web, resets: bool) -> None:
    for _ in range(3):
        with pytest.raises(ConnectionResetError if resets else IncompleteRead):
            asked(web, Fault(drops=1, resets=resets))
    assert len({one.sent for one in web.asked}) == 3
    web.asked.clear()
    web.faults["a b.bin"] = Fault(drops=0.5, drops_within=10)
    for _ in range(40):
        with suppress(IncompleteRead, ConnectionResetError):
            assert ask(web, **RANGE)[1] == DATA[100:200]
    assert {one.sent for one in web.asked} <= {*range(10), 100}
    assert 10 < sum(one.sent < 10 for one in web.asked) < 30


@pytest.mark.parametrize("cuts", [False, True])
def test_changes(web: Web, cuts: bool) -> None:
    before = ask(web)[0].headers
    web.asked.clear()
    web.faults["a b.bin"] = Fault(changes_to=b"new", changes_after=150, cuts=cuts)
    assert ask(web, If_Range=before["ETag"], **RANGE)[1] == DATA[100:200]
    if cuts:
        with pytest.raises(IncompleteRead):
            ask(web)
        assert web.asked[-1].sent == 50
    else:
        assert ask(web)[1] == DATA
    response, body = ask(web, If_Range=before["ETag"], **RANGE)
    assert (response.status, body) == (200, b"new")
    web.files["a b.bin"] = b"newer"
    assert ask(web)[1] == ask(web)[1] == b"newer"


def test_validators(web: Web) -> None:
    etag = ask(web)[0].headers["ETag"]
    response, _ = asked(web, Fault(no_etag=True), If_Range=etag, **RANGE)
    assert (response.status, response.headers["ETag"], "Last-Modified" in response.headers) == (200, None, True)
    response, _ = asked(web, Fault(no_validators=True))
    assert not {"ETag", "Last-Modified"} & set(response.headers)
    response, _ = asked(web, Fault(weak_etag=True), If_Range=f"W/{etag}", **RANGE)
    assert (response.status, response.headers["ETag"]) == (200, f"W/{etag}")


def test_lies(web: Web) -> None:
    with pytest.raises(IncompleteRead):
        asked(web, Fault(length_off=10))
    assert asked(web, Fault(length_off=-10), **RANGE)[1] == DATA[100:190]
    response, body = asked(web, Fault(total_off=5, label_off=-7), **RANGE)
    assert (response.headers["Content-Range"], body) == (f"bytes 93-192/{len(DATA) + 5}", DATA[100:200])
    response, body = asked(web, Fault(range_off=1), **RANGE)
    assert (response.headers["Content-Range"], body) == (f"bytes 101-200/{len(DATA)}", DATA[101:201])
    response, body = asked(web, Fault(ignores_range=True), **RANGE)
    assert (response.status, response.headers["Content-Range"], body) == (200, None, DATA)


def test_no_length(web: Web) -> None:
    response, body = asked(web, Fault(no_length=True))
    assert (response.headers["Content-Length"], response.headers["Transfer-Encoding"], body) == (None, "chunked", DATA)
    assert asked(web, Fault(no_length=True), **RANGE)[1] == DATA[100:200]
    with pytest.raises(IncompleteRead):
        asked(web, Fault(no_length=True, drops=1))
    response, body = asked(web, Fault(until_close=True))
    assert (response.length, body) == (None, DATA)


def test_status(web: Web) -> None:
    web.faults["a b.bin"] = [Fault(status=503, times=2, retry_after=1), Fault(status=429, times=3)]
    answers = [ask(web)[0] for _ in range(4)]
    assert [(one.status, one.headers["Retry-After"]) for one in answers] == [(503, "1")] * 2 + [
        (429, None),
        (200, None),
    ]
    web.faults["a b.bin"] = Fault(status=410)
    with pytest.raises(HTTPError, match="410"):
        urlopen(f"{web.url}/a%20b.bin")


def test_redirect(web: Web) -> None:
    for to in ["file:///etc/passwd", "ftp://x", "../ä b"]:
        response, _ = asked(web, Fault(redirect=to))
        assert (response.status, response.headers["Location"].encode("latin-1").decode()) == (302, to)
    web.faults |= {"moved": Fault(redirect="a%20b.bin"), "round": Fault(redirect="/round")}
    web.faults["a b.bin"] = []
    with urlopen(Request(f"{web.url}/moved", headers=RANGE)) as response:
        assert response.read() == DATA[100:200]
    with pytest.raises(HTTPError, match="infinite loop"):
        urlopen(f"{web.url}/round")


def test_wrong_bytes(web: Web) -> None:
    web.faults["a b.bin"] = Fault(wrong_bytes=True, times=1)
    wrong, right = ask(web)[1], ask(web)[1]
    assert (right, sum(a != b for a, b in zip(wrong, right, strict=True))) == (DATA, 1)
    web.faults["a b.bin"] = Fault(wrong_at=150)
    assert ask(web, **RANGE)[1] == DATA[100:150] + bytes([DATA[150] ^ 255]) + DATA[151:200]
    assert ask(web, Range="bytes=200-299")[1] == DATA[200:300]


def test_slow(web: Web) -> None:
    began = monotonic()
    assert asked(web, Fault(slow=1000), **RANGE)[1] == DATA[100:200]
    assert 0.09 < monotonic() - began < 1


@pytest.mark.parametrize(("stalls", "gets"), [(-1, -1), (0, 0), (50, 50), (200, 100)])
def test_stalls(web: Web, stalls: int, gets: int) -> None:
    web.faults["a b.bin"] = Fault(stalls=stalls)
    connection = HTTPConnection(web.url.removeprefix("http://"), timeout=0.05)
    connection.request("GET", "/a%20b.bin", headers=RANGE)
    if gets < 0:
        with pytest.raises(TimeoutError):
            connection.getresponse()
    else:
        response = connection.getresponse()
        assert response.read(gets) == DATA[100:][:gets]
        if gets < 100:
            with pytest.raises(TimeoutError):
                response.read(1)
    began = monotonic()
    web.close()
    assert monotonic() - began < 0.5
    connection.close()


def test_packed(web: Web) -> None:
    response, body = asked(web, Fault(packed=True), **RANGE)
    assert (response.headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", DATA[100:200])


def test_html(web: Web) -> None:
    response, body = asked(web, Fault(html=True), **RANGE)
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
    assert body.startswith(b"<!DOCTYPE html>")


def test_garbage(web: Web) -> None:
    for garbage in [b"\0 not HTTP\r\n\r\n", b""]:
        with pytest.raises(BadStatusLine):
            asked(web, Fault(garbage=garbage))
    with pytest.raises((HTTPException, LineTooLong)):
        asked(web, Fault(endless_head=True))


def test_closes_while_nobody_reads(web: Web) -> None:
    web.faults["x"] = Fault(endless_head=True)
    clients = [socket.create_connection(("127.0.0.1", int(web.url.rpartition(":")[2]))) for _ in range(3)]
    clients[0].sendall(b"GET /x HTTP/1.1\r\n\r\n")
    clients[1].sendall(b"GET /a%20b.bin HTTP/1.1\r\n\r\n" * 9)
    clients[2].sendall(b"GET /a%20")
    assert clients[0].recv(1) + clients[1].recv(1) == b"HH"
    began = monotonic()
    web.close()
    assert monotonic() - began < 0.5
    for client in clients:
        client.close()


def test_serves_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(DATA)
    command = [sys.executable, "-m", "tests.web", str(tmp_path), "--rate", "1e9"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with urlopen(f"{process.stdout.readline().strip()}/in/file") as response:
            assert response.read() == DATA
        process.terminate()
