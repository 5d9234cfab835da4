"""Options that several commands have, and what they mean."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuknn.cli.log import write_event

DEFAULT_METRIC = "cosine"
DISTS_AS = ("angle", "cosine", "dot", "euclidean", "sqeuclidean")
"""Those of `gold.distances`, which would load HDF5 before it is needed."""


def add_missing(group: argparse._ActionsContainer) -> None:
    """Describe the option `--missing`: what becomes of rows that nobody wrote."""
    group.add_argument(
        "--missing",
        choices=("refuse", "zeros"),
        default="refuse",
        help="rows that were never written (chunks that are missing, holes of a file): refuse them, or read zeros "
        "(default: %(default)s)",
    )


def add_metric(group: argparse._ActionsContainer) -> None:
    """Describe the option `--metric`."""
    group.add_argument(
        "--metric",
        metavar="NAME",
        help="cosine (default, but for some bundles), ip (or dot, inner_product), l2 (or sqeuclidean) or hamming",
    )


def add_catalogue(group: argparse._ActionsContainer) -> None:
    """Describe the options that say which files a dataset has, and where they are."""
    group.add_argument(
        "--bundle",
        metavar="B",
        help="which vectors of it: clip768 (default), pca32, pca96 or hamming; see gpuknn data list",
    )
    group.add_argument(
        "--data-dir", type=Path, metavar="D", help="where its files lie (default: the user's data folder)"
    )
    group.add_argument(
        "--catalogue", type=Path, metavar="FILE.toml", help="another dataset's (see configs/catalogues/)"
    )


def add_mirror(group: argparse._ActionsContainer) -> None:
    """Describe the option `--base-url`."""
    group.add_argument("--base-url", metavar="URL", help="fetch from a mirror, which has all files under their names")


def add_changes(group: argparse._ActionsContainer, dtype: str) -> None:
    """Describe what becomes of rows on their way; `dtype` tells whose type is given."""
    group.add_argument("--rows", metavar="A:B", help="rows A to B-1, counted from 0; of a gold standard, queries")
    group.add_argument("--dtype", choices=("float16", "float32", "float64", "uint8", "int8"), help=dtype)
    group.add_argument("--normalize", action="store_true", help="divide each row by its length")
    group.add_argument("--scale", type=float, metavar="S", help="then multiply each component by S")
    group.add_argument(
        "--round", action="store_true", help="round to whole numbers for uint8 and int8, which refuse fractions else"
    )


def add_dists_as(group: argparse._ActionsContainer, what: str) -> None:
    """Describe the option `--dists-as`; `what` becomes of the distances."""
    group.add_argument(
        "--dists-as",
        choices=DISTS_AS,
        help=f"{what}: angle (in radians) or cosine (1 - cos), euclidean or sqeuclidean (its square), dot (inner "
        "products, the largest first)",
    )


def add_crew(group: argparse._ActionsContainer) -> None:
    """Describe who does the work of a long job on a device."""
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="how many share the cores (default: 1), or have a GPU each (default: all)",
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


def sayer(chosen: argparse.Namespace) -> Callable[[str], None]:
    """What says a line before there is a progress bar."""

    def say(line: str) -> None:
        if chosen.log_json:
            write_event({"event": "said", "line": line})
        elif not chosen.quiet and not chosen.json:
            sys.stderr.write(f"gpuknn: {line}\n")

    return say


def write_outcome(chosen: argparse.Namespace, facts: dict[str, Any], words: str) -> None:
    """What came out, on standard output: as JSON, or in words."""
    sys.stdout.write(json.dumps(facts, default=str) + "\n" if chosen.json else words)
