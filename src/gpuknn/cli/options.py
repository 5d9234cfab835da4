"""Options that several commands have, and what they mean."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuknn.cli.log import write_event

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gpuknn.workers.crew import Crew


def add_missing(group: argparse._ActionsContainer) -> None:
    """Describe the option `--missing`: what becomes of rows that nobody wrote."""
    group.add_argument(
        "--missing",
        choices=("refuse", "zeros"),
        default="refuse",
        help="rows that were never written (chunks that are missing, holes of a file): refuse them, or read zeros "
        "(default: %(default)s)",
    )


def add_crew(group: argparse._ActionsContainer) -> None:
    """Describe who does the work of a long job on a device."""
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the cores (default: 1), or have a GPU each (all)"
    )
    group.add_argument("--threads", type=int, metavar="N", help="cores to use in all (default: all)")
    add_cluster(group)


def add_cluster(group: argparse._ActionsContainer) -> None:
    """Describe the option `--cluster`."""
    group.add_argument(
        "--cluster",
        metavar="WHERE",
        default="local",
        help="local (default), a Dask scheduler's address (tcp://...) or scheduler file (.json), or a cluster file "
        "(.yaml: SSH, SLURM, Kubernetes; see configs/)",
    )


def add_shown(group: argparse._ActionsContainer, what: str) -> None:
    """Describe what a long job shows; `what` is written as JSON."""
    group.add_argument("--quiet", action="store_true", help="no progress")
    group.add_argument("--log-json", action="store_true", help="no progress bar, but a line of JSON for what happens")
    group.add_argument("--json", action="store_true", help=f"{what} as JSON on standard output")


def crew_of(chosen: argparse.Namespace) -> "AbstractContextManager[Crew]":
    """Who is to do the work; a command without `--device` computes nothing on one."""
    from gpuknn.workers.crew import hired

    device, threads = getattr(chosen, "device", None), getattr(chosen, "threads", None)
    return hired(chosen.cluster, device, chosen.workers, threads, sayer(chosen))


def sayer(chosen: argparse.Namespace) -> Callable[[str], None]:
    """What says a line before there is a progress bar."""

    def say(line: str) -> None:
        if chosen.log_json:
            write_event({"event": "said", "line": line})
        elif not chosen.quiet and not chosen.json:
            sys.stderr.write(f"gpuknn: {line}\n")

    return say
