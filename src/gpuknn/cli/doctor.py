"""`gpuknn doctor`: what is here, what will be used, and whether it gives right answers."""

import argparse
import json
import sys
from pathlib import Path

from gpuknn.errors import InputError

EXAMPLES = """examples:
  gpuknn doctor
  gpuknn doctor --full --report .
  gpuknn doctor --compile
"""
DESCRIPTION = f"{__doc__}  Exit code 0 if it does, 1 if not."
HELP = "examine this machine"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="to examine (default: auto)")
    parser.add_argument("--gpu", type=int, metavar="N", help="which GPU, counted from 0 (default: the first)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--full",
        action="store_true",
        help="also all metrics and types, errors, races, rates; takes minutes and for a moment all of the GPU's memory",
    )
    what.add_argument(
        "--compile",
        action="store_true",
        help="examine nothing, but compile what searches need, so that no first run waits for it: for images, and for "
        "clusters whose nodes share a home folder and have like processors",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path(), metavar="D", help="where to try the disk (default: the current folder)"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write HOST-DATE.json and .md to that folder")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """Examine and show, or compile."""
    if chosen.compile:
        return _compile(chosen)
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


def _compile(chosen: argparse.Namespace) -> int:
    """Compile all kernels and say where they are kept."""
    from gpuknn.doctor.compile import compile_all
    from gpuknn.progress import bar

    if chosen.report is not None:
        raise InputError("--compile examines nothing to report on; leave out --report")
    with bar(disable=chosen.json) as told:
        done = compile_all(told)
    sys.stdout.write(json.dumps(done.facts) + "\n" if chosen.json else f"{done}\n")
    return 0


def _say(line: str) -> None:
    """Progress, for whoever watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"gpuknn doctor: {line}\n")
