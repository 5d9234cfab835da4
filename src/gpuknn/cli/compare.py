"""`gpuknn compare`: are two files equal, gold standards or vectors, and if not, in what way?"""

import argparse

from gpuknn.cli.options import add_changes, add_missing, write_outcome

EXAMPLES = """examples:
  gpuknn compare a.h5 b.h5
  gpuknn compare database.h5 database.zarr
  gpuknn compare database.zarr
"""

DESCRIPTION = (
    f"{__doc__}\n\nExit code 0 if they are, 1 if not.  A alone is checked by the checksums that gpuknn "
    "convert has written to it.  Of two gold standards the first neighbours of each query are compared if one file "
    "has more of them, and only the ids if one file has no distances."
)
HELP = "are two files equal"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("a", metavar="A", help="a gold standard or vectors (FILE:KEY, if there are several)")
    parser.add_argument("b", metavar="B", nargs="?", help="the same, in any format")
    first = parser.add_argument_group("what A becomes first, as gpuknn convert would write it")
    add_changes(first, "of vectors (default: B's), of a gold standard's distances")
    parser.add_argument("--ignore-ids", action="store_true", help="leave out the ids that files give their rows")
    add_missing(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """Compare, show."""
    from gpuknn.cli.progress import shown
    from gpuknn.gold import Comparison, compare

    options = ("rows", "dtype", "normalize", "scale", "round", "ignore_ids", "missing")
    with shown(chosen) as told:
        found = compare(chosen.a, chosen.b, **{name: getattr(chosen, name) for name in options}, progress=told)
    lines = [repr(found), *(found.remarks if isinstance(found, Comparison) else ())]
    write_outcome(chosen, found.facts, "".join(f"{line}\n" for line in lines))
    return 0 if found.equal else 1
