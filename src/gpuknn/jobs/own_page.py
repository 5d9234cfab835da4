"""gpuknn's page on an HTTP server of this process, if threads of this process do the work and there is no scheduler."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

from gpuknn.jobs.events import COUNTERS, THREADS_NAME, counters_told
from gpuknn.jobs.page import HEADERS, PATH, Page
from gpuknn.progress import Event, Listener

HERE = "127.0.0.1", "localhost"
"""Names of this machine; through a tunnel the port may be another."""
LOOK_EVERY = 0.02
"""Seconds between looks whether the server is to end: a short run does not wait for its page."""
PATIENCE = 10.0
"""Seconds for a browser to say what it wants."""


@contextmanager
def served() -> Iterator[tuple[str, Listener]]:
    """Serve a page on a free port of loopback as long as the context lasts: its address, and what tells it of a run."""
    page, one_at_a_time, here = Page(), Lock(), {THREADS_NAME}
    kinds: dict[str, tuple[str, Callable[[], bytes]]] = {
        PATH: ("text/html", lambda: page.html(here, dask=False)),
        f"{PATH}.json": ("application/json", lambda: page.json(here)),
    }
    if COUNTERS:
        kinds["/metrics"] = "text/plain", counters_told

    class Show(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_GET(self) -> None:
            try:
                asked, path = urlsplit(f"//{self.headers.get('Host', '')}").hostname, urlsplit(self.path).path
            except ValueError:
                self.send_error(400)
                return
            if asked not in HERE:  # a page of another site, whose name was made to mean this machine
                self.send_error(403)
                return
            if path not in kinds:
                self.send_error(404)
                return
            kind, told = kinds[path]
            with one_at_a_time:
                body = told()
            self.send_response(200)
            for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=UTF-8"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Who looks is not written down."""

    def hear(event: Event) -> None:
        with one_at_a_time:
            page.hear(event)

    class Server(ThreadingHTTPServer):
        server_bind = TCPServer.server_bind  # HTTPServer's would ask for the name of the address, and might wait

        def handle_error(self, *_: object) -> None:
            """A browser that goes away in mid answer is nothing for the run's screen."""

    with Server((HERE[0], 0), Show) as server:
        Thread(target=server.serve_forever, args=(LOOK_EVERY,), name="gpuknn's page", daemon=True).start()
        try:
            yield f"http://{HERE[0]}:{server.server_address[1]}{PATH}", hear
        finally:
            server.shutdown()
