"""`gpuknn compare`: are two files equal, gold standards or vectors, and if not, in what way?"""

import argparse
from typing import TYPE_CHECKING

from gpuknn.cli.options import add_changes, add_missing, write_outcome
from gpuknn.progress import step

if TYPE_CHECKING:
    from gpuknn.gold import Comparison, Gold
    from gpuknn.gold.match import Matched

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
    """Read, compare, show."""
    from gpuknn.gold import holds_gold
    from gpuknn.jobs.convert.gold import VECTORS_ONLY
    from gpuknn.jobs.convert.job import Job

    job = Job.of(vars(chosen) | {"source": chosen.a})
    if chosen.b is None:
        job.refuse(["--rows", "--dtype", *VECTORS_ONLY], f"there is nothing to compare {chosen.a} with")
        return _compare_with_checksums(chosen)
    files = chosen.a, chosen.b
    if any(map(holds_gold, files)) or all(holds_gold(file, beside_rows=True) for file in files):
        gold = next((file for file in files if holds_gold(file)), chosen.a)
        job.refuse(VECTORS_ONLY, f"{gold} is a gold standard, not vectors")
        return _compare_gold(chosen)
    return _compare_vectors(chosen)


def _compare_with_checksums(chosen: argparse.Namespace) -> int:
    from gpuknn.cli.progress import shown
    from gpuknn.vectors.checksums import first_damage, open_noted

    rows, notes = open_noted(chosen.a, chosen.missing)
    with shown(chosen) as told:
        told(step("reading", len(rows), "read", row_bytes=rows.nbytes // len(rows)))
        damaged = first_damage(rows, notes, lambda done: told({"event": "read", "rows": done}))
    difference = None if damaged is None else f"rows {damaged.start} to {damaged.stop} are not what was written"
    return _say(chosen, difference, f"{len(rows):,} x {rows.shape[1]} {rows.dtype}, as they were written")


def _compare_vectors(chosen: argparse.Namespace) -> int:
    import numpy as np

    from gpuknn.cli.progress import shown
    from gpuknn.vectors import open_vectors
    from gpuknn.vectors.compare import first_difference
    from gpuknn.vectors.converted import Converted, rows_named

    a, b = (open_vectors(name, missing=chosen.missing) for name in (chosen.a, chosen.b))
    rows, dtype = rows_named(chosen.rows, len(a)), np.dtype(chosen.dtype or b.dtype)
    ours = Converted.of(a, rows, dtype, chosen.normalize, chosen.scale, chosen.round)
    with shown(chosen) as told:
        told(step("comparing", len(ours), "read", row_bytes=ours.nbytes // len(ours)))
        by_ids = not chosen.ignore_ids
        difference = first_difference(ours, b, by_ids, lambda done: told({"event": "read", "rows": done}))
    after = f", after turning {a.dtype} into {dtype}" if a.dtype != dtype else ""
    after += f", scaled by {chosen.scale:g}" if chosen.scale is not None else ""
    return _say(chosen, difference, f"{len(ours):,} x {ours.shape[1]} {dtype}{after}")


def _say(chosen: argparse.Namespace, difference: str | None, equal: str) -> int:
    words = f"not equal: {difference}\n" if difference else f"equal: {equal}\n"
    write_outcome(chosen, {"equal": difference is None, "difference": difference}, words)
    return 1 if difference else 0


def _compare_gold(chosen: argparse.Namespace) -> int:
    from gpuknn.gold import compare_gold, matched, read_gold
    from gpuknn.gold.distances import alike
    from gpuknn.gold.rounding import cut_gold

    where = chosen.a, chosen.b
    a, _ = cut_gold(read_gold(chosen.a), chosen.rows, chosen.dtype)
    pair = matched(*alike(a, read_gold(chosen.b), where), where)
    found = compare_gold(pair.a, pair.b)
    write_outcome(chosen, vars(found) | {"equal": found.equal, "rows_by": pair.by}, _told(pair, found))
    return 0 if found.equal else 1


def _told(pair: "Matched", found: "Comparison") -> str:
    """What was found, in lines for a person."""
    from gpuknn.gold.match import ROWS
    from gpuknn.gold.recall import one_kind

    widths, rows = found.widths, pair.by == ROWS
    of = "" if widths[0] == widths[1] else f" of the first {min(widths)} of {max(widths)} neighbours"
    by = "" if rows else f"; rows are told by {pair.by}"
    if found.first is None:
        what = "ids; one of the two has no distances" if found.ids_only else "ids and distances"
        return f"equal{of}: {found.entries:,} {what}{by}\n"
    if found.ids_only:
        what = f"{found.ids:,} are other ids; one of the two has no distances"
    else:
        what = (
            f"{found.ties:,} are other ids at the same distance, {found.rounding:,} differ by rounding, "
            f"{found.real:,} by more"
        )
    i, j = found.first
    lines = [
        f"not equal{of}: of {found.entries:,} entries {what}{by}",
        f"first: query {i}, rank {j} (both counted from 0): {_entry(pair.a, i, j, rows)}, {_entry(pair.b, i, j, rows)}",
    ]
    types = [gold.dists.dtype for gold in (pair.a, pair.b) if gold.dists is not None]
    if found.rounding and len(set(types)) == 2:
        lines.append(f"the distances are {types[0]} and {types[1]}; --dtype {types[1]} compares after rounding A's")
    if found.real and one_kind(pair.a, pair.b) is False:
        lines.append("distances of the same neighbours differ: the two may be of two kinds, as roots and squares")
    return "".join(f"{line}\n" for line in lines)


def _entry(gold: "Gold", i: int, j: int, rows: bool) -> str:
    """A neighbour in words, its row counted as in HDF5 files."""
    if gold.ids[i, j] < 0:
        return "none"
    named = f"row {gold.ids[i, j] + 1} (counted from 1)" if rows else f"id {gold.ids[i, j]}"
    return named if gold.dists is None else f"{named} at {gold.dists[i, j]:.9g}"
