"""gpuknn's page on the HTTP server of a Dask scheduler."""

from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.web import Application, RequestHandler

from gpuknn.jobs.events import TOPIC
from gpuknn.jobs.page import HEADERS, PATH, Page
from gpuknn.progress import Event


class SchedulerPage(SchedulerPlugin):  # type: ignore[misc]
    """Hears what the workers tell, and serves the page."""

    name = "gpuknn"
    idempotent = True

    def __init__(self) -> None:
        self.page = Page()
        self.stays = False
        """Whether it goes on when no run is at work, so that a run's end can be seen: if one run says so."""

    def start(self, scheduler: Any) -> None:
        """Called by Dask on the scheduler."""
        self._scheduler = scheduler
        self._application = Application([(PATH + r"(\.json)?", Show, {"plugin": self})])
        scheduler.http_application.add_application(self._application)

    def leave(self) -> None:
        """Take the page down if nobody needs it any more: the scheduler is then as it was before."""
        if not self.stays and all(run.state != "at work" for run in self.page.runs.values()):
            self._scheduler.remove_plugin(self.name)
            self._scheduler.http_application.applications.remove(self._application)

    def log_event(self, topic: str, msg: Event) -> None:
        """Called by Dask for each event."""
        if topic.startswith(TOPIC):
            self.stays = self.stays or msg.get("stays", False)
            self.page.hear(msg)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Called by Dask when a client has gone: a run of its that did not end has been given up."""
        for run in self.page.runs.values():
            if run.client == client and run.state == "at work":
                run.stop("stopped")

    def here(self) -> set[str]:
        """The names of the workers that there are."""
        return {str(worker.name) for worker in self._scheduler.workers.values()}


class Show(RequestHandler):
    """The page for people, or the same for programs."""

    def initialize(self, plugin: SchedulerPage) -> None:
        """Called by Tornado."""
        self._plugin = plugin

    def get(self, json: str | None) -> None:
        """What there is now."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        page, here = self._plugin.page, self._plugin.here()
        if json:
            self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(page.json(here) if json else page.html(here, dask=True))
