"""Calls in processes of their own, which start at once: each is a fork of one that has imported gpuknn."""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "pytest",
        "gpuknn.cli.convert",
        "gpuknn.cli.main",
        "gpuknn.jobs.rewrite.run",
        "gpuknn.vectors.zarr",
        "rich.progress",
    ]
)
SECONDS = 300
"""How long a process may take."""


def run(call: Callable[..., int], *arguments: object) -> "CompletedProcess[str]":
    """Call it in another process, in this one's folder and environment; how it ended and what it printed."""
    with TemporaryDirectory() as folder:
        printed = [Path(folder, name) for name in ("stdout", "stderr")]
        process = PROCESSES.Process(target=_run, args=(os.getcwd(), dict(os.environ), printed, call, arguments))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{call.__name__} {arguments}")
        return CompletedProcess(
            [call.__name__, *map(str, arguments)], process.exitcode, *(path.read_text() for path in printed)
        )


def _run(
    folder: str, environment: dict[str, str], printed: list[Path], call: Callable[..., int], arguments: tuple
) -> None:
    sys.dont_write_bytecode = True  # on a small disk Python would leave half of a module's
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.exit(call(*arguments))
