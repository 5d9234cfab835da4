"""`gpuknn compare`: are two gold standards equal, and if not, in what way?"""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuknn.gold import Gold

EXAMPLE = "example:\n  gpuknn compare a.h5 b.h5\n"


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "compare",
        help="are two gold standards equal",
        description=f"{__doc__}  Exit code 0 if they are, 1 if not.  If one file has more neighbours of each query "
        "than the other, the first of them are compared.  If one file has no distances, only the ids are compared.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", help="HDF5 (FILE:GROUP, if it holds several), .ibin, .ivecs, .parquet, .npy or .npz")
    parser.add_argument("b")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Read both, compare, show."""
    from gpuknn.gold import compare_gold, matched, read_gold
    from gpuknn.gold.distances import alike
    from gpuknn.gold.match import ROWS
    from gpuknn.gold.recall import one_kind

    where = chosen.a, chosen.b
    pair = matched(*alike(read_gold(chosen.a), read_gold(chosen.b), where), where)
    found = compare_gold(pair.a, pair.b)
    if chosen.json:
        facts = vars(found) | {"equal": found.equal, "rows_by": pair.by}
        sys.stdout.write(json.dumps(facts) + "\n")
        return 0 if found.equal else 1
    of = (
        ""
        if found.widths[0] == found.widths[1]
        else f" of the first {min(found.widths)} of {max(found.widths)} neighbours"
    )
    by = "" if pair.by == ROWS else f"; rows are told by {pair.by}"
    if found.equal:
        what = "ids; one of the two has no distances" if found.ids_only else "ids and distances"
        sys.stdout.write(f"equal{of}: {found.entries:,} {what}{by}\n")
        return 0
    assert found.first is not None
    if found.ids_only:
        what = f"{found.ids:,} are other ids; one of the two has no distances"
    else:
        what = (
            f"{found.ties:,} are other ids at the same distance, {found.rounding:,} differ by rounding, "
            f"{found.real:,} by more"
        )
    i, j = found.first
    sys.stdout.write(
        f"not equal{of}: of {found.entries:,} entries {what}{by}\n"
        f"first: query {i}, rank {j} (both counted from 0): {_entry(pair.a, i, j, pair.by == ROWS)}, "
        f"{_entry(pair.b, i, j, pair.by == ROWS)}\n"
    )
    if found.real and one_kind(pair.a, pair.b) is False:
        sys.stdout.write("distances of the same neighbours differ: the two may be of two kinds, as roots and squares\n")
    return 1


def _entry(gold: "Gold", i: int, j: int, rows: bool) -> str:
    """A neighbour in words, its row counted as in HDF5 files."""
    if gold.ids[i, j] < 0:
        return "none"
    named = f"row {gold.ids[i, j] + 1} (counted from 1)" if rows else f"id {gold.ids[i, j]}"
    return named if gold.dists is None else f"{named} at {gold.dists[i, j]:.9g}"
