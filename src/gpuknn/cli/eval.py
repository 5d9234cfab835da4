"""`gpuknn eval`: recall of a result against a gold standard."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError

EXAMPLE = "example:\n  gpuknn eval result.h5 gold.h5 -k 10,30,100\n"
TOLD = ("algo", "data", "dataset", "task", "size", "buildtime", "querytime", "params")


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "eval",
        help="recall of a result",
        description=f"{__doc__}\n\nby ids: as in the SISAP evaluation; tie-aware: an id as near as the k-th counts.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("result", type=Path, help="knns counted from 1 and dists, (queries, neighbours)")
    parser.add_argument("gold", type=Path, help="a gold-standard file")
    parser.add_argument("-k", default="10", metavar="K[,K...]", help="ranks (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Read both, compute, show."""
    from gpuknn.gold import read_gold, read_result, tie_aware_recall

    try:
        ranks = [int(k) for k in chosen.k.split(",")]
    except ValueError as error:
        raise InputError(f"-k {chosen.k}: expected numbers separated by commas, as in 10,30,100") from error
    result, said = read_result(chosen.result)
    gold = read_gold(chosen.gold)
    recalls = [tie_aware_recall(result, gold, k) for k in ranks]
    told = {name: said[name] for name in TOLD if name in said}
    if chosen.json:
        sys.stdout.write(json.dumps(told | {"recall": [vars(r) for r in recalls]}, default=str) + "\n")
        return 0
    for name, value in told.items():
        sys.stdout.write(f"{name}: {value}\n")
    for r in recalls:
        beyond = f"  ({r.undecided} queries' ties may go on past the gold's last column)" if r.undecided else ""
        sys.stdout.write(f"recall@{r.k}: {r.by_ids:.6f} by ids, {r.tie_aware:.6f} tie-aware{beyond}\n")
    return 0
