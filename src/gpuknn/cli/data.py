"""`gpuknn data`: which files a dataset has, what of them is here and right; fetches what is missing."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gpuknn.cli.options import add_catalogue, add_mirror, add_shown, write_outcome
from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told
from gpuknn.progress import readable

if TYPE_CHECKING:
    from gpuknn.laion.held import Held
    from gpuknn.laion.select import Wanted

EXAMPLES = """examples:
  gpuknn data list --bundle clip768
  gpuknn data get 10M --queries public --gold f64 --meta
  gpuknn data verify
"""
HELP = "published files of LAION2B, or of another dataset: list, get, verify"
WHAT = "subsets (10M), bundles (pca32), names of files or patterns of names ('*hamming*')"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the commands of this command, and their options."""
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = parts.add_parser("list", help="what there is, and what of it is here", description=LIST)
    listing.add_argument("what", nargs="*", metavar="WHAT", help=f"only these: {WHAT}")
    listing.add_argument("--subset", metavar="S", help="only what belongs to this subset")
    add_catalogue(listing)
    listing.add_argument(
        "--json", action="store_true", help="all that is known of each file as JSON on standard output"
    )
    getting = parts.add_parser("get", help="fetch files; the same command goes on after a kill", description=GET)
    checking = parts.add_parser("verify", help="read what is here and compare its md5 sums", description=VERIFY)
    for each, what in ((getting, WHAT), (checking, f"only these: {WHAT}")):
        each.add_argument("what", nargs="*", metavar="WHAT", help=what)
        each.add_argument("--queries", metavar="SET", help="beside a subset: its queries, public or private")
        each.add_argument("--gold", metavar="G", help="beside a subset: its gold standards, f32 or f64")
        each.add_argument("--meta", action="store_true", help="beside a subset: its captions")
        add_catalogue(each)
    add_mirror(getting)
    getting.add_argument("--fresh", action="store_true", help="discard what an unfinished download of them has left")
    getting.add_argument("--dry-run", action="store_true", help="tell what would be fetched, and stop")
    add_shown(getting, "the outcome")
    add_shown(checking, "the outcome")
    for each, work in ((listing, _list), (getting, _get), (checking, _verify)):
        each.set_defaults(part=work)


LIST = """Show a dataset's files.

State: missing; begun (a part is here); here (nobody has compared its md5 sum, or none is published); verified; wrong
(its size or md5 sum is not the published one)."""
GET = """Fetch files into the data folder.  A subset means its database; options add what goes with it.

A file gets its name once it is whole and its md5 sum is right.  No file that is there is ever replaced."""
VERIFY = """Read files and compare their md5 sums with the published ones.  Exit code 1 if one is wrong or missing."""


def run(chosen: argparse.Namespace) -> int:
    """Do what the command's own command says."""
    with interrupts_told():
        code: int = chosen.part(chosen)
    return code


def _list(chosen: argparse.Namespace) -> int:
    from gpuknn.laion.catalogue import read_catalogue
    from gpuknn.laion.held import data_folder, held
    from gpuknn.laion.select import listed

    catalogue, folder = read_catalogue(chosen.catalogue), data_folder(chosen.data_dir)
    files = [held(folder, file) for file in listed(catalogue, chosen.what, chosen.bundle, chosen.subset)]
    if chosen.json:
        sys.stdout.write(json.dumps([_facts(each) for each in files]) + "\n")
        return 0
    sys.stdout.write(f"{catalogue.title}; data folder {folder}\n\n")
    for name in dict.fromkeys(each.file.bundle for each in files):
        bundle = catalogue.bundles[name]
        sys.stdout.write(f"{name}: {', '.join(filter(None, (bundle.title, bundle.metric)))}\n")
    sys.stdout.write(f"\n{_table(_lines(files, bool(chosen.what)))}")
    notes: dict[str, dict[str, None]] = {}
    for each in files:
        if each.file.note:
            notes.setdefault(each.file.note, {})[each.file.name] = None
    for note, names in notes.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        sys.stdout.write(f"\n{next(iter(names))}{others}: {note}\n")
    return 0


def _get(chosen: argparse.Namespace) -> int:
    from gpuknn.cli.progress import shown
    from gpuknn.jobs.download.plan import plan_download
    from gpuknn.jobs.download.run import run_download
    from gpuknn.laion.catalogue import read_catalogue
    from gpuknn.laion.held import data_folder
    from gpuknn.laion.select import select

    catalogue = read_catalogue(chosen.catalogue, chosen.base_url)
    files = select(catalogue, _wanted(chosen))
    if not files:
        raise InputError("name what to fetch: a subset, a bundle, or a pattern of names (see gpuknn data get --help)")
    plan = plan_download(files, data_folder(chosen.data_dir), chosen.fresh, chosen.words)
    if chosen.dry_run:
        write_outcome(chosen, plan.facts, f"{plan.title}: {plan.size}\n{table_of(plan.files)}")
        return 0
    with shown(chosen) as told:
        done = run_download(plan, told)
    facts = {"seconds": done.seconds, "fetched": done.fetched, "files": [_facts(each) for each in done.files]}
    words = f"{table_of(done.files)}{readable(done.fetched)} fetched in {done.seconds:,.1f} s\n"
    write_outcome(chosen, facts, "" if chosen.quiet else words)
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    from gpuknn.cli.progress import shown
    from gpuknn.jobs.download.verify import verify
    from gpuknn.laion.catalogue import read_catalogue
    from gpuknn.laion.held import data_folder, held
    from gpuknn.laion.select import once, select

    catalogue, folder = read_catalogue(chosen.catalogue), data_folder(chosen.data_dir)
    files = [held(folder, file) for file in select(catalogue, _wanted(chosen)) or once(catalogue.files)]
    asked = bool(chosen.what or chosen.bundle)
    files = [each for each in files if asked or each.state not in ("missing", "begun")]
    with shown(chosen) as told:
        found = verify(files, told)
    bad = [each for each in found if each.state not in ("verified", "here")]
    words = table_of(found) if found else f"no file of this dataset is in {folder}\n"
    words += "".join(
        f"{each.path}: {each.wrong}; move it away, and get it again\n" for each in found if each.state == "wrong"
    )
    write_outcome(chosen, {"right": not bad, "files": [_facts(each) for each in found]}, "" if chosen.quiet else words)
    return 1 if bad else 0


def _wanted(chosen: argparse.Namespace) -> "Wanted":
    from gpuknn.laion.select import Wanted

    return Wanted(tuple(chosen.what), chosen.bundle, chosen.queries, chosen.gold, chosen.meta)


def table_of(files: Sequence["Held"]) -> str:
    """Files and their states, for a person."""
    return _table(_lines(files, True))


def _facts(each: "Held") -> dict[str, Any]:
    """A file as JSON has it; `held` and `md5_here` are of what is in the data folder."""
    return asdict(each.file) | {"state": each.state, "path": str(each.path), "held": each.bytes, "md5_here": each.md5}


def _lines(files: Sequence["Held"], every: bool) -> list[tuple[str, ...]]:
    """A line for each row; for all numbered files of a kind together, unless `every` one is asked for."""
    lines = []
    for key, group in groupby(
        files, lambda each: (each.file.numbered and not every, re.sub(r"\d+", "", each.file.name))
    ):
        rows = list(group)
        if not key[0] or len(rows) == 1:
            lines += [_line(each) for each in rows]
            continue
        states = ", ".join(f"{count} {state}" for state, count in Counter(each.state for each in rows).items())
        name = f"{rows[0].file.name} to {rows[-1].file.name}"
        lines.append((name, *_line(rows[0])[1:-1], states))
    return lines


def _line(each: "Held") -> tuple[str, ...]:
    file = each.file
    what = " ".join(
        filter(None, [file.bundle, file.kind, file.gold, file.queries, "" if file.numbered else " ".join(file.subsets)])
    )
    shape = " x ".join(f"{n:,}" for n in (file.rows, file.dims) if n is not None)
    size = file.size or ("" if file.bytes is None else readable(file.bytes))
    state = f"begun, {readable(each.bytes)}" if each.state == "begun" else each.state
    return file.name, what, f"{shape} {file.dtype or ''}".strip(), size, state


def _table(lines: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest word."""
    lines = [("file", "what", "rows x components", "size", "state"), *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)
