"""`gpuknn compare`: are two gold standards equal, and if not, in what way?"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError

EXAMPLE = "example:\n  gpuknn compare a.h5 b.h5\n"


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "compare",
        help="are two gold standards equal",
        description=f"{__doc__}  Exit code 0 where they are, 1 where not.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Read both, compare, show."""
    from gpuknn.gold import compare_gold, read_gold
    from gpuknn.gold.ids_only import has_distances

    a, b = read_gold(chosen.a), read_gold(chosen.b)
    for path, gold in ((chosen.a, a), (chosen.b, b)):
        if not has_distances(gold):
            raise InputError(
                f"{path}: holds no distances; gpuknn convert --check {chosen.a} {chosen.b} compares the ids"
            )
    found = compare_gold(a, b)
    if chosen.json:
        sys.stdout.write(json.dumps(vars(found) | {"equal": found.equal}) + "\n")
    elif found.shapes[0] != found.shapes[1]:
        sys.stdout.write(f"not equal: {found.shapes[0]} neighbours beside {found.shapes[1]}\n")
    elif found.equal:
        sys.stdout.write(f"equal: {found.entries:,} ids and distances\n")
    else:
        assert found.first is not None
        i, j = found.first
        sys.stdout.write(
            f"not equal: of {found.entries:,} entries {found.ties:,} are other ids at the same distance, "
            f"{found.rounding:,} differ by rounding, {found.real:,} by more\n"
            f"first: query {i}, rank {j}: id {a.ids[i, j] + 1} at {a.dists[i, j]:.9g}, "
            f"id {b.ids[i, j] + 1} at {b.dists[i, j]:.9g}\n"
        )
    return 0 if found.equal else 1
