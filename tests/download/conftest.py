"""A web server that has one file, and constants that make quick what takes minutes."""

from collections.abc import Iterator

import pytest

from gpuknn.jobs.download import server, transfer
from tests.download.one import BLOCK, CONTENT, NAME
from tests.web import Web, serving


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
