"""`gpuknn eval`: recall of a result against a gold standard."""

import argparse
from typing import TYPE_CHECKING

from gpuknn.cli.options import write_outcome
from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.gold import Gold, Recall

EXAMPLES = "example:\n  gpuknn eval result.h5 gold.h5 -k 10,30,100\n"
WAYS = """by ids        the share of the gold's ids that were found, as the SISAP evaluation computes it
tie-aware     any id of the gold as near as its k-th neighbour counts, too
by distances  any row whose distance, by the result's own word, is at most that of the gold's k-th neighbour plus
              epsilon counts, as ann-benchmarks computes it (under l2 of roots, under hamming of shares of bits)

-1 is no id.  If the gold has fewer than k neighbours of a query, recall is the share of those that it has; a query of
which it has none counts as answered."""
TOLD = ("algo", "data", "dataset", "task", "size", "buildtime", "querytime", "params")
DESCRIPTION = f"{__doc__}\n\n{WAYS}"
HELP = "recall of a result"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("result", help="a result: HDF5 (FILE:GROUP, if it holds several), .ibin, .ivecs, .npy, ...")
    parser.add_argument("gold", help="a gold standard in any of these formats")
    parser.add_argument("-k", default="10", metavar="K[,K...]", help="ranks (default: %(default)s)")
    parser.add_argument(
        "--epsilon",
        type=float,
        default=1e-3,
        metavar="E",
        help="how much farther than the k-th neighbour a row may be that counts by distances (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """Read both, compute, show."""
    from gpuknn.gold import matched, read_gold, recall_at
    from gpuknn.gold.match import ROWS

    try:
        ranks = [int(k) for k in chosen.k.split(",")]
    except ValueError as error:
        raise InputError(f"-k {chosen.k}: expected numbers separated by commas, as in 10,30,100") from error
    if not chosen.epsilon >= 0:
        raise InputError(f"--epsilon {chosen.epsilon}: must be 0 or more")
    result, gold = read_gold(chosen.result), read_gold(chosen.gold)
    pair = matched(result, gold, (chosen.result, chosen.gold))
    recalls = [recall_at(pair.a, pair.b, k, chosen.epsilon) for k in ranks]
    told = {name: result.said[name] for name in TOLD if name in result.said}
    lines = [f"{name}: {value}" for name, value in told.items()]
    files = ((chosen.result, result), (chosen.gold, gold))
    lines += [f"{path}: holds similarities, the largest first" for path, read in files if read.were_similarities]
    lines += [] if pair.by == ROWS else [f"rows are told by {pair.by}"]
    lines += [f"recall@{r.k}: {_figures(r)}{_remarks(r, pair.a, pair.b)}" for r in recalls]
    facts = told | {"rows_by": pair.by, "recall": [vars(r) for r in recalls]}
    write_outcome(chosen, facts, "".join(f"{line}\n" for line in lines))
    return 0


def _figures(r: "Recall") -> str:
    figures = f"{r.by_ids:.6f} by ids, {r.tie_aware:.6f} tie-aware"
    if r.by_distances is not None:
        figures += f", {r.by_distances:.6f} by distances to within {r.epsilon:g}"
    return figures


def _remarks(r: "Recall", result: "Gold", gold: "Gold") -> str:
    """What a reader of the figures must know."""
    from gpuknn.gold.recall import one_kind

    remarks = []
    if r.by_distances is None and result.dists is not None and gold.dists is not None:
        apart = one_kind(result, gold) is False
        why = "the two files give the same neighbours other distances" if apart else "distances may be of two kinds"
        remarks.append(f"{why}, so distances were not compared")
    if r.by_ids == 0 and result.are_rows != gold.are_rows:
        remarks.append("one file counts rows, and the other may hold ids of the database's own")
    if r.short:
        remarks.append(f"the gold has fewer than {r.k} neighbours of {r.short} queries")
    if r.repeated:
        remarks.append(f"{r.repeated} queries have an id more than once, which was counted once")
    if r.undecided:
        remarks.append(f"{r.undecided} queries' ties may go on past the gold's last column")
    return f"  ({'; '.join(remarks)})" if remarks else ""
