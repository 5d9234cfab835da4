"""`gpuknn doctor`: what is here, what will be used, and whether it gives right answers."""

import argparse
import json
import sys
from pathlib import Path

from gpuknn.errors import InputError

EXAMPLES = """examples:
  gpuknn doctor
  gpuknn doctor --full --report .
"""
DESCRIPTION = f"{__doc__}  Exit code 0 if it does, 1 if not."
HELP = "examine this machine"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="to examine (default: auto)")
    parser.add_argument("--gpu", type=int, metavar="N", help="which GPU, counted from 0 (default: the first)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="also all metrics and types, errors, races, rates; takes minutes and for a moment all of the GPU's memory",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path(), metavar="D", help="where to try the disk (default: the current folder)"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write HOST-DATE.json and .md to that folder")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """Examine and show."""
    from gpuknn.doctor.examine import examine
    from gpuknn.doctor.page import as_json, page, write_report

    if chosen.report is not None and not chosen.report.is_dir():
        raise InputError(f"--report {chosen.report}: there is no such folder")
    report = examine(chosen.device, chosen.gpu, chosen.data_dir, chosen.full, _say)
    sys.stdout.write(json.dumps(as_json(report)) + "\n" if chosen.json else page(report))
    if chosen.report is not None:
        for path in write_report(report, chosen.report):
            _say(f"wrote {path}")
    return 0 if report.passed else 1


def _say(line: str) -> None:
    """Progress, for whoever watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"gpuknn doctor: {line}\n")
