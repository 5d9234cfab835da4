"""`--missing`: what becomes of rows that nobody wrote."""

import argparse


def add_missing(group: argparse._ArgumentGroup) -> None:
    """Describe the option."""
    group.add_argument(
        "--missing",
        choices=("refuse", "zeros"),
        default="refuse",
        help="rows that were never written (chunks that are missing, holes of a file): refuse them, or read zeros "
        "(default: %(default)s)",
    )
