"""`gpuknn eval`: recall of a result against a gold standard."""

import argparse

from gpuknn.cli.options import add_dists_as, write_outcome
from gpuknn.errors import InputError

EXAMPLES = "example:\n  gpuknn eval result.h5 gold.h5 -k 10,30,100\n"
WAYS = """by ids        the share of the gold's ids that were found, as the SISAP evaluation computes it
tie-aware     any id of the gold as near as its k-th neighbour counts, too
by distances  any row whose distance, by the result's own word, is at most that of the gold's k-th neighbour plus
              epsilon counts, as ann-benchmarks computes it (of 1 - cosine, roots of l2, shares of bits; --dists-as asks
              for others)

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
    add_dists_as(parser, "the distances that count by distances, and epsilon's")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """Evaluate, show."""
    from gpuknn.gold import evaluate

    try:
        ranks = [int(k) for k in chosen.k.split(",")]
    except ValueError as error:
        raise InputError(f"-k {chosen.k}: expected numbers separated by commas, as in 10,30,100") from error
    found = evaluate(chosen.result, chosen.gold, ks=ranks, epsilon=chosen.epsilon, dists_as=chosen.dists_as)
    said = found.result.said
    told = {name: said[name] for name in TOLD if name in said}
    lines = [f"{name}: {value}" for name, value in told.items()]
    files = ((chosen.result, found.result), (chosen.gold, found.gold))
    lines += [f"{path}: holds similarities, the largest first" for path, read in files if read.were_similarities]
    facts = told | {"rows_by": found.rows_by, "dists_as": found.dists_as, "recall": [vars(recall) for recall in found]}
    write_outcome(chosen, facts, "".join(f"{line}\n" for line in (*lines, found)))
    return 0
