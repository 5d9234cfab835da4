"""One published file, and what is asked of it."""

import random
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from gpuknn.errors import RunError
from gpuknn.jobs.download.plan import plan_download
from gpuknn.jobs.download.run import Outcome, run_download
from gpuknn.laion.catalogue import RemoteFile
from gpuknn.laion.held import held
from gpuknn.progress import Listener
from tests.web import Fault, Web

SIZE = 1_000_000
BLOCK = 100_000
CONTENT = random.Random(16).randbytes(SIZE)
OTHER = random.Random(17).randbytes(SIZE)
NAME = "database.h5"


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


def broken(web: Web, folder: Path, file: RemoteFile) -> None:
    """Leave a part of a file in the folder."""
    web.faults[file.name] = Fault(status=503, after=4)
    with pytest.raises(RunError):
        get(folder, file)
    web.faults.clear()
    web.asked.clear()
    assert held(folder, file).bytes
