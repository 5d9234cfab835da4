"""What commands that take vectors have in common: an option, and a question that makes no sense."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.vectors import Vectors


def add_missing(group: argparse._ActionsContainer) -> None:
    """Describe the option `--missing`: what becomes of rows that nobody wrote."""
    group.add_argument(
        "--missing",
        choices=("refuse", "zeros"),
        default="refuse",
        help="rows that were never written (chunks that are missing, holes of a file): refuse them, or read zeros "
        "(default: %(default)s)",
    )


def refuse_rows_as_queries(database: "Vectors", queries: "Vectors", named: bool) -> None:
    """Raise InputError if the queries are the very rows of the database, or rows of a file that holds queries, too.

    `named`: whether the command line names the array of queries.
    """
    from gpuknn.storage.location import is_url
    from gpuknn.vectors.hdf5 import arrays_of_queries

    a, b = database.path, queries.path
    same = a == b if is_url(a) or is_url(b) else Path(a).samefile(b)
    same = same and (database.key or "").strip("/") == (queries.key or "").strip("/")
    others = [] if is_url(b) else [f"{b}:{key}" for key in arrays_of_queries(b) if key != queries.key]
    if same:
        offer = f"name its queries ({', '.join(others)}), or " if others else ""
        raise InputError(
            f"{queries.where}: is named as the database and as the queries; {offer}say --self to find every row's "
            "neighbours among the others"
        )
    if others and not named and queries.key == "train":
        raise InputError(f"{b}: holds rows and queries; name the queries: {', '.join(others)} (or {queries.where})")
