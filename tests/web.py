"""A web server in threads of this process, sound or with faults, each of which real servers and networks have.

`python -m tests.web FOLDER` serves the files that a folder holds at the start, for measurements.
"""

import argparse
import gzip
import os
import select
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from functools import lru_cache, partial
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from socketserver import ThreadingTCPServer
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any
from urllib.parse import unquote

PIECE = 2**23
"""The most bytes that are sent at once."""


@contextmanager
def serving(files: "dict[str, bytes | Path]", port: int = 0) -> "Iterator[Web]":
    """Serves the files on 127.0.0.1 until the end of the context, which ends all answers under way."""
    web = Web(files, port)
    try:
        yield web
    finally:
        web.close()


@dataclass(frozen=True, eq=False)
class Fault:
    """What is wrong with a file's answers; of several faults of a file, the first that says something of it counts."""

    times: int | None = None  # only so many requests for the file, HEAD too, from the first that finds this fault
    after: int = 0  # requests that are answered before
    seed: int = 0  # of all that is random

    drops: float = 0  # the share of answers whose connection is closed after a random number of body bytes
    drops_within: int | None = None  # fewer than so many bytes
    resets: bool = False  # drops by RST, which may lose bytes that were sent
    changes_to: bytes | Path | None = None  # the content once `changes_after` of the file's bytes were sent in all
    changes_after: int = 0
    cuts: bool = False  # that change cuts answers under way, which else go on with the old bytes
    slow: float | None = None  # bytes per second of each answer
    stalls: int | None = None  # after so many body bytes nothing comes any more; -1: not even a head comes
    wrong_bytes: bool = False  # one random byte of each answer is wrong
    wrong_at: int | None = None  # the file's byte there is wrong, in answers that have it

    no_etag: bool = False
    no_validators: bool = False  # neither ETag nor Last-Modified
    weak_etag: bool = False
    short: int | None = None  # sends no more than so many bytes of a range
    ignores_range: bool = False  # always 200 and the whole body
    no_length: bool = False  # in chunks
    until_close: bool = False  # neither a length nor chunks
    packed: bool = False  # Content-Encoding: gzip of what would have been sent
    length_off: int = 0  # is added to Content-Length; after too short a body the connection is closed
    total_off: int = 0  # is added to the total in Content-Range
    label_off: int = 0  # is added to first and last byte in Content-Range; the bytes are those asked for
    range_off: int = 0  # is added to the range asked for, and Content-Range says so

    status: int | None = None  # instead of the file
    retry_after: int | str | None = None
    redirect: str | None = None  # 302 to any text, as it is
    html: bool = False  # 200 and a page that asks to log in
    garbage: bytes | None = None  # instead of an answer, then closes
    endless_head: bool = False


DEFAULTS = vars(Fault())


@dataclass(eq=False)
class Asked:
    """A request and what became of it."""

    method: str
    name: str
    headers: Message
    range: tuple[int, int] | None  # first byte and stop, if it asks for one readable range; an open end is the file's
    if_range: str | None
    status: int = 0  # 0 if none was sent
    _sent: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def sent(self) -> int:
        """Body bytes sent until now; no byte that a client has read is missing here."""
        with self._lock:
            return self._sent


class Web:
    """The server: files and faults by name, which may be changed at any time, and all requests in order of arrival."""

    def __init__(self, files: dict[str, bytes | Path], port: int = 0) -> None:
        self.files = dict(files)
        self.faults: dict[str, Fault | Sequence[Fault]] = {}
        self.asked: list[Asked] = []
        self._lock = Lock()
        self._requests: Counter[str] = Counter()
        self._since: dict[tuple[str, Fault], int] = {}
        self._closed = Event()
        self._server = _Server(self, port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._server.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # waits for the threads

    def _look(self, name: str) -> tuple[bytes | Path | None, Fault, int]:
        """A file's content, all that is wrong with this answer, and how many requests there were before."""
        with self._lock:
            number, self._requests[name] = self._requests[name], self._requests[name] + 1
            found = self.faults.get(name, ())
            wrong: dict[str, Any] = {}
            for fault in [found] if isinstance(found, Fault) else found:
                since = self._since.setdefault((name, fault), number)
                if number - since >= fault.after and (
                    fault.times is None or number - since < fault.after + fault.times
                ):
                    wrong = {key: value for key, value in vars(fault).items() if value != DEFAULTS[key]} | wrong
            return self.files.get(name), Fault(**wrong), number

    def _wait(self, seconds: float | None) -> None:
        if self._closed.wait(seconds):
            raise ConnectionAbortedError("the server is being closed")


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, web: Web, port: int) -> None:
        self.web = web
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: "socket.socket | tuple[bytes, socket.socket]") -> None:
        assert isinstance(request, socket.socket)
        self.connections.discard(request)
        request.close()  # without a shutdown before it, which would send FIN where RST is wanted


class _Body:
    """Bytes or an open file; None is an empty body."""

    def __init__(self, content: bytes | Path | None) -> None:
        self.file = None if content is None or isinstance(content, bytes) else content.open("rb")
        self.content = content if isinstance(content, bytes) else b""
        self.bytes = memoryview(self.content)
        self.size = os.fstat(self.file.fileno()).st_size if self.file else len(self.bytes)

    def validators(self) -> tuple[str, str]:
        """ETag and Last-Modified; those of bytes follow from the bytes, those of a file from its times and size."""
        if self.file:
            of = os.fstat(self.file.fileno())
            return f'"{of.st_ino:x}-{of.st_size:x}-{of.st_mtime_ns:x}"', formatdate(of.st_mtime, usegmt=True)
        digest = _digest(self.content)
        return f'"{digest[:32]}"', formatdate(1_700_000_000 + int(digest[:6], 16), usegmt=True)

    def read(self, first: int, stop: int) -> bytes:
        return os.pread(self.file.fileno(), stop - first, first) if self.file else bytes(self.bytes[first:stop])

    def send(self, connection: int, first: int, stop: int) -> int:
        if not self.file:
            return os.write(connection, self.bytes[first:stop])
        sent = os.sendfile(connection, self.file.fileno(), first, stop - first)
        if not sent:
            raise ConnectionAbortedError("the file has become shorter")
        return sent


@lru_cache(16)  # which needs no second look at the same object
def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 86400  # a timeout makes the connection one that does not block
    server: _Server

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.web, self.name = self.server.web, unquote(self.path.partition("?")[0]).removeprefix("/")
        self.content, self.fault, self.number = self.web._look(self.name)
        try:
            body = _Body(self.content)
        except FileNotFoundError:
            self.content, body = None, _Body(None)
        with body.file or nullcontext():
            asks, if_range = _range(self.headers.get("Range", ""), body.size), self.headers.get("If-Range")
            self.asked = Asked(self.command, self.name, self.headers, asks, if_range)
            self.web.asked.append(self.asked)
            self._answer(body)

    do_HEAD = do_GET

    def _answer(self, body: _Body) -> None:
        fault = self.fault
        if fault.garbage is not None:
            self._send_all(fault.garbage)
            self.close_connection = True
        elif fault.endless_head:
            self._send_all(b"HTTP/1.1 200 OK\r\n")
            while True:
                self._send_all(b"X-More: " + b"x" * 1000 + b"\r\n")
        elif fault.status is not None:
            after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send_text(fault.status, "as told\n", after)
        elif fault.redirect is not None:
            self._send_text(302, "elsewhere\n", {"Location": fault.redirect})
        elif fault.html:
            self._send_text(200, "<!DOCTYPE html><html>Please log in.</html>", {"Content-Type": "text/html"})
        elif self.content is None:
            self._send_text(404, "no such file\n", {})
        else:
            self._send_file(body)

    def _send_file(self, body: _Body) -> None:
        fault, asks = self.fault, self.asked.range
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if not fault.no_validators:
            etag, headers["Last-Modified"] = body.validators()
            if not fault.no_etag:
                headers["ETag"] = ("W/" if fault.weak_etag else "") + etag
        matches = self.asked.if_range in (None, headers.get("Last-Modified"), headers.get("ETag"))
        weak = (self.asked.if_range or "").startswith("W/")
        if asks is None or self.command != "GET" or not matches or weak or fault.ignores_range:
            self._send(200, headers, body, 0, body.size)
        elif asks[0] >= body.size:
            self._send(416, {"Content-Range": f"bytes */{body.size}"}, _Body(None), 0, 0)
        else:
            first = min(max(0, asks[0] + fault.range_off), body.size - 1)
            stop = min(max(first + 1, asks[1] + fault.range_off), body.size)
            stop = stop if fault.short is None else min(stop, first + fault.short)
            said = f"bytes {first + fault.label_off}-{stop - 1 + fault.label_off}/{body.size + fault.total_off}"
            self._send(206, headers | {"Content-Range": said}, body, first, stop)

    def _send_text(self, status: int, text: str, headers: dict[str, str]) -> None:
        body = _Body(text.encode())
        self._send(status, {"Content-Type": "text/plain"} | headers, body, 0, body.size)

    def _send(self, status: int, headers: dict[str, str], body: _Body, first: int, stop: int) -> None:
        """The head and, if it is asked for, the body's bytes from first to stop."""
        fault = self.fault
        at = Random(f"{fault.seed} {self.number}").randrange(first, stop) if fault.wrong_bytes and first < stop else -1
        at = at if fault.wrong_at is None else fault.wrong_at
        if first <= at < stop:
            flipped = bytearray(body.read(first, stop))
            flipped[at - first] ^= 0xFF
            body, first, stop = _Body(bytes(flipped)), 0, len(flipped)
        if fault.packed:
            body, headers = _Body(gzip.compress(body.read(first, stop), 1)), headers | {"Content-Encoding": "gzip"}
            first, stop = 0, body.size
        if fault.no_length:
            headers["Transfer-Encoding"] = "chunked"
        elif not fault.until_close:
            headers["Content-Length"] = str(max(0, stop - first + fault.length_off))
        self.close_connection |= fault.length_off > 0 or fault.until_close
        if fault.stalls == -1:
            self.web._wait(None)
        reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
        lines = [f"HTTP/1.1 {status} {reason}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.asked.status = status
        self._send_all("\r\n".join([*lines, "", ""]).encode())
        if self.command != "HEAD":
            self._send_body(body, first, stop)

    def _send_body(self, body: _Body, first: int, stop: int) -> None:
        fault, drop = self.fault, self._drop(stop - first)
        marks = [first + after for after in (fault.stalls, drop) if after is not None]
        most = max(1, int(fault.slow / 20)) if fault.slow else PIECE
        began, at = monotonic(), first
        while at < stop:
            if drop is not None and at == first + drop:
                raise ConnectionAbortedError("dropped")
            if at in marks:
                self.web._wait(None)
            end = min([stop, at + most, *(mark for mark in marks if mark > at)])
            if fault.slow:
                self.web._wait(max(0, began + (end - first) / fault.slow - monotonic()))
            if fault.no_length:
                self._send_all(f"{end - at:x}\r\n".encode())
            while at < end:
                at += self._send_some(body, at, end)
            if fault.no_length:
                self._send_all(b"\r\n")
        if fault.no_length:
            self._send_all(b"0\r\n\r\n")

    def _drop(self, length: int) -> int | None:
        """After how many body bytes the connection is to be closed; the kernel is told how."""
        fault, chance = self.fault, Random(f"{self.fault.seed} {self.name} {self.number}")
        if chance.random() >= fault.drops:
            return None
        if fault.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return chance.randrange(max(1, min(length, fault.drops_within or length)))

    def _send_some(self, body: _Body, first: int, stop: int) -> int:
        """Sends and counts as many of the bytes as the connection takes, and changes the content in the same breath."""
        web, name, fault = self.web, self.name, self.fault

        def send(connection: int) -> int:
            with self.asked._lock:
                sent = body.send(connection, first, stop)
                self.asked._sent += sent
            return sent

        def send_and_change(connection: int) -> int:
            nonlocal stop
            with web._lock:
                if fault.cuts and web.files.get(name) is not self.content:
                    raise ConnectionAbortedError("the file has changed")
                left = fault.changes_after - sum(asked._sent for asked in web.asked if asked.name == name)
                stop = min(stop, first + left) if left > 0 else stop
                sent = send(connection)
                if fault.changes_to is not None and (0 < left <= sent or fault.changes_after == 0):
                    web.files[name] = fault.changes_to
            return sent

        return self._when_ready(send if fault.changes_to is None else send_and_change)

    def _send_all(self, text: bytes) -> None:
        while text:
            text = text[self._when_ready(partial(_write, text)) :]

    def _when_ready(self, send: Callable[[int], int]) -> int:
        while True:
            with suppress(BlockingIOError):
                return send(self.connection.fileno())
            ready = select.poll()
            ready.register(self.connection, select.POLLOUT)
            ready.poll()


def _write(text: bytes, connection: int) -> int:
    return os.write(connection, text)


def _range(header: str, size: int) -> tuple[int, int] | None:
    unit, _, text = header.partition("=")
    first, dash, last = text.strip().partition("-")
    if unit != "bytes" or not dash or not (first + last).isdecimal():
        return None
    if not first:
        return max(0, size - int(last)) if int(last) else size, size
    return (int(first), int(last) + 1 if last else size) if not last or int(first) <= int(last) else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.web", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, help="bytes per second and connection")
    options = parser.parse_args()
    files = {str(path.relative_to(options.folder)): path for path in options.folder.rglob("*") if path.is_file()}
    with serving({**files}, options.port) as web, suppress(KeyboardInterrupt):
        web.faults.update({name: Fault(slow=options.rate) for name in files} if options.rate else {})
        sys.stdout.write(f"{web.url}\n")
        sys.stdout.flush()
        Event().wait()


if __name__ == "__main__":
    main()
