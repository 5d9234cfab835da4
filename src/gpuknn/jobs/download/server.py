"""One request for bytes of a published file, and all the ways in which a web server can answer it.

A server is believed about nothing that can be checked.  What it sends is a part of one version of the file, of one
size; or else an error says whether asking again may help:

    Passing         the connection broke, the server is busy: it may pass
    Changed         what it has is another version than the one that was begun
    Anew            it sends no parts of a file
    InputError      it will be the same the next time
"""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version as version_of
from time import monotonic, time

import httpx

from gpuknn.errors import InputError, one_line

CONNECT_SECONDS = 20.0
SILENT_SECONDS = 30.0
"""After so long without a byte a connection is given up."""
SLOW_SECONDS, SLOW_BYTES = 30.0, 30 * 2**10
"""So few bytes in so long: a connection that crawls is given up, too."""
MOST_REDIRECTS = 10
ENDLESS = 2**63 - 1
"""Where a file of unknown size ends."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be others the next time."""
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
STRONG = re.compile(r'"[!#-~]*"')
"""An ETag that a range can be asked of; a weak one begins with W/."""


class Passing(Exception):
    """A request failed in a way that may pass; `pause`: seconds that the server asks to wait."""

    def __init__(self, said: str, pause: float = 0.0) -> None:
        super().__init__(said)
        self.pause = pause


class Changed(Exception):
    """The server has another version of the file than the one that was begun, or nothing of that range."""


class Anew(Exception):
    """The server sends no ranges: the file is to be fetched in one piece."""


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from another."""

    size: int | None
    """None if the server does not tell it."""
    etag: str = ""
    modified: str = ""

    def same(self, other: "Version") -> bool:
        """Whether they are the same, as far as is known; two that are told in different ways are not."""
        if None not in (self.size, other.size) and self.size != other.size:
            return False
        if self.etag and other.etag:  # the time may differ between machines that serve the same file
            return self.etag == other.etag
        if self.modified and other.modified:
            return self.modified == other.modified
        return not (self.known and other.known)

    @property
    def known(self) -> bool:
        """Whether another version could be told from this one."""
        return bool(self.etag or self.modified)

    @property
    def condition(self) -> dict[str, str]:
        """The header that asks for a range of this very version."""
        return {"If-Range": self.etag} if STRONG.fullmatch(self.etag) else {}


@dataclass(frozen=True)
class Answer:
    """Bytes on their way."""

    version: Version
    first: int
    """Where in the file they begin."""
    stop: int
    """Where they end, as far as that is announced."""
    whole: bool
    """The server does not send ranges: this is the file from its beginning."""
    chunks: Iterator[bytes]
    """What comes, until all has come that was announced; raises Passing if that fails."""


@contextmanager
def web(connections: int) -> Iterator[httpx.Client]:
    """What asks web servers; proxies and certificates are those of the environment."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=connections)
    timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    headers = {"Accept-Encoding": "identity", "User-Agent": f"Mozilla/5.0 (compatible; gpuknn/{version_of('gpuknn')})"}
    try:
        client = httpx.Client(
            headers=headers,
            timeout=timeout,
            limits=limits,
        )
    except Exception as error:  # a proxy's address or a file of certificates that cannot be used
        raise InputError(f"the environment's proxies or certificates cannot be used ({one_line(error)})") from error
    with client:
        yield client


@contextmanager
def asked(client: httpx.Client, url: str, first: int, stop: int | None, begun: Version | None) -> Iterator[Answer]:
    """Ask for bytes [first, stop) of a file, all of them from `first` on if `stop` is None.

    `begun`: the version that they must be of.  Raises Passing, Changed, Anew or InputError.
    """
    headers = {}
    if first or stop is not None:
        headers = {"Range": f"bytes={first}-{'' if stop is None else stop - 1}"} | (begun.condition if begun else {})
    try:
        request: httpx.Request | None = client.build_request("GET", url, headers=headers)
        for _ in range(MOST_REDIRECTS + 1):
            assert request
            response = client.send(request, stream=True)
            try:
                if response.next_request is None:
                    yield _answer(response, url, first, stop, begun)
                    return
                _check_redirect(response)
                request = response.next_request
            finally:
                response.close()  # the body of a redirect may be endless: it is not read
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:  # idna's are UnicodeErrors
        raise InputError(f"{url}: is no address, or leads or is sent by a proxy to none ({one_line(error)})") from error
    except httpx.TransportError as error:
        if _is_untrusted(error):
            raise InputError(f"{url}: the server's certificate is not trusted ({one_line(error)})") from error
        raise Passing(_in_words(error)) from error
    raise InputError(f"{url}: is redirected more than {MOST_REDIRECTS} times")


def _answer(response: httpx.Response, url: str, first: int, stop: int | None, begun: Version | None) -> Answer:
    code, headers = response.status_code, response.headers
    if code in BUSY:
        raise Passing(f"the server answers {_status(response)}", _seconds(headers.get("Retry-After", "")))
    if code == 416 and first == 0:  # of an empty file there are no parts
        raise Anew("the server sends no parts of it")
    if code == 416:
        raise Changed(f"the server has no bytes from {first:,} on")
    if code not in (200, 206):
        raise InputError(f"{url}: the server answers {_status(response)}; look at the address, or name a mirror")
    if headers.get("Content-Encoding", "identity") != "identity":
        packed = _plain(headers["Content-Encoding"])
        raise InputError(f"{url}: the server sends it packed ({packed}), which nobody asked for")
    if headers.get("Content-Type", "").lower().startswith("text/html") and not url.endswith((".html", ".htm")):
        raise InputError(f"{url}: the server answers with a page for people (text/html), not with the file")
    start, end, size = 0, ENDLESS, None
    if code == 206:
        said = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if (
            not said
            or int(said[1]) != first
            or not first <= int(said[2]) < int(said[3].replace("*", str(ENDLESS)))
            or (stop is not None and int(said[2]) >= stop)
        ):
            raise Passing(
                f"the server sends other bytes than those that were asked for ({headers.get('Content-Range')})"
            )
        start, end, size = first, int(said[2]) + 1, None if said[3] == "*" else int(said[3])
    elif "Content-Length" in headers and "Transfer-Encoding" not in headers:
        size = int(headers["Content-Length"])
    elif response.http_version == "HTTP/1.0" or "Transfer-Encoding" not in headers:
        raise InputError(f"{url}: the server does not tell how long it is, so nobody can know whether all has come")
    version = Version(size, headers.get("ETag", ""), headers.get("Last-Modified", ""))
    if begun and not begun.same(version):
        raise Changed("the server has another version of it now")
    return Answer(version, start, end, code == 200, _chunks(response))


def _chunks(response: httpx.Response) -> Iterator[bytes]:
    """The body as it comes; raises Passing if it crawls."""
    since, came = monotonic(), 0
    for chunk in response.iter_raw():
        yield chunk
        came += len(chunk)
        now = monotonic()
        if now - since > SLOW_SECONDS:
            if came < SLOW_BYTES:
                raise Passing(f"the server sends only {came:,} bytes in {SLOW_SECONDS:.0f} s")
            since, came = now, 0


def _check_redirect(response: httpx.Response) -> None:
    """Raise InputError if a server sends us to something that is not of the web, or from https to http."""
    to = response.url.join(response.headers["Location"])
    if to.scheme not in ("http", "https") or not to.host:
        raise InputError(f"{response.url}: is redirected to {str(to)[:200]!r}, which is no address of the web")
    if response.url.scheme == "https" and to.scheme == "http":
        raise InputError(f"{response.url}: is redirected from https to http, where anybody could change it")


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {_plain(response.reason_phrase)}".strip()


def _plain(said: str) -> str:
    """What a server says, as a terminal may show it."""
    return "".join(letter if letter.isprintable() else "?" for letter in said[:100])


def _seconds(retry_after: str) -> float:
    """What a Retry-After header says, as seconds or as a date; 0 if it is neither."""
    if re.fullmatch(r"\d{1,9}", retry_after):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_words(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"the server does not answer within {CONNECT_SECONDS:.0f} s"
    if isinstance(error, httpx.TimeoutException):
        return f"the server was silent for {SILENT_SECONDS:.0f} s"
    if isinstance(error, httpx.ConnectError):
        return f"the server cannot be reached ({one_line(error)})"
    return f"the connection broke ({one_line(error)})"
