"""`gpuknn runs`: runs that were begun and are not finished, and what becomes of them."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.storage.record import RunFound

EXAMPLES = """examples:
  gpuknn runs
  gpuknn runs --resume gold.h5.run
  gpuknn runs --remove other.h5.run
"""
HELP = "unfinished runs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="where outputs are written (default: the current folder)"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with that run, by the command that began it")
    parser.add_argument(
        "--remove", type=Path, metavar="RUN", help="delete what that run has finished (objects in a store stay)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """List, resume or remove."""
    from gpuknn.storage.record import Record, find_runs

    if chosen.remove:
        record = Record(chosen.remove)
        if not record.exists:
            raise InputError(f"{chosen.remove}: is not a run directory; gpuknn runs lists those of a folder")
        record.discard()
        return 0
    if chosen.resume:
        return _resume(_only(chosen.resume), chosen.again)
    if not chosen.folder.is_dir():
        raise InputError(f"{chosen.folder}: there is no such folder")
    found = find_runs(chosen.folder)
    if chosen.json:
        sys.stdout.write(json.dumps([asdict(r) | {"path": str(r.path)} for r in found]) + "\n")
    for r in () if chosen.json else found:
        sys.stdout.write(_describe(r))
    if not found and not chosen.json:
        sys.stdout.write(f"no unfinished runs in {chosen.folder}\n")
    return 0


def _only(path: Path) -> "RunFound":
    from gpuknn.storage.record import find_runs

    found = [r for r in find_runs(path) if r.path == path]
    if not found:
        raise InputError(f"{path}: is not a run directory; gpuknn runs lists those of a folder")
    return found[0]


def _resume(found: "RunFound", again: Callable[[list[str]], int]) -> int:
    if not found.command or found.command[0] == "runs" or not found.folder or not Path(found.folder).is_dir():
        raise InputError(f"{found.path}: does not say by which command it was begun; give that command again")
    os.chdir(found.folder)
    return again(found.command)


def _describe(found: "RunFound") -> str:
    total = f" of {found.rows_in_all:,}" if found.rows_in_all >= max(2, found.rows) else ""
    state = "at work" if found.at_work else "waiting"
    title = "".join(letter if letter.isprintable() else "?" for letter in found.title)
    command = f"cd {shlex.quote(found.folder)} && gpuknn {shlex.join(found.command)}"
    return (
        f"{found.path}: {state}; {found.rows:,}{total} {found.unit} done, "
        f"{found.bytes / 2**20:,.1f} MiB\n"
        f"  {title}\n"
        f"  {command}\n"
    )
