"""`gpuknn convert`: vectors and gold standards from one format to another."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.convert.formats import NAMES
from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.convert.formats import Format
    from gpuknn.convert.rows import Converted
    from gpuknn.vectors import Vectors

EXAMPLES = """examples:
  gpuknn convert database.h5 database.zarr
  gpuknn convert database.fbin database.h5 --dtype float16 --normalize
  gpuknn convert --check database.h5 database.zarr
  gpuknn convert --check database.zarr
  gpuknn convert gold.h5 gold.ibin
"""
DECIDE = (
    *("source", "key", "rows", "dtype", "normalize", "to", "dst_key", "queries", "gold"),
    *("compression", "zarr_format", "shard_rows", "chunk_rows"),
)
"""Options that decide what is written."""


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "convert",
        help="convert between formats",
        description=f"{__doc__}\n\nWith --check nothing is written: exit code 0 where DST holds what SRC does, else 1.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="a file of any of the formats, or a Zarr store's folder or URL")
    parser.add_argument(
        "destination", metavar="DST", nargs="?", help="a file, or a Zarr store's folder or URL (s3://...)"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the two instead of writing; one alone, with its own checksums"
    )
    what = parser.add_argument_group("what to write")
    what.add_argument("--key", help="the array or group in SRC, where it holds several")
    what.add_argument("--to", choices=NAMES, metavar="FORMAT", help=f"{', '.join(NAMES)} (default: by DST's name)")
    what.add_argument("--dst-key", metavar="KEY", help="the array's name in an HDF5 file, the column's in Parquet")
    what.add_argument("--rows", metavar="A:B", help="rows A to B-1, counted from 0; of a gold standard, queries")
    what.add_argument("--dtype", choices=("float16", "float32", "float64", "uint8", "int8"), help="of what is written")
    what.add_argument("--normalize", action="store_true", help="divide each row by its length")
    what.add_argument("--queries", metavar="FILE", help="ann-benchmarks and SISAP: put these beside the rows")
    what.add_argument("--gold", metavar="FILE", help="ann-benchmarks and SISAP: and this answer to them")
    how = parser.add_argument_group("how to write it")
    how.add_argument("--compression", choices=("none", "zstd", "blosc"), help="of Zarr or Parquet (default: none)")
    how.add_argument("--zarr-format", type=int, choices=(2, 3), help="(default: 3)")
    how.add_argument("--shard-rows", type=int, metavar="N", help="rows of a shard (default: up to 1.5 GiB)")
    how.add_argument("--chunk-rows", type=int, metavar="N", help="rows of a chunk (default: 24 MiB)")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: threads of this one)")
    how.add_argument(
        "--cluster", metavar="WHERE", default="local", help="local, or a Dask scheduler's address or file (.json)"
    )
    how.add_argument(
        "--force", action="store_true", help="replace an existing DST; one at a URL is removed before the first row"
    )
    how.add_argument("--fresh", action="store_true", help="discard what an earlier, unfinished conversion has left")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on standard output")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Check, then convert or compare; report."""
    from gpuknn.convert.formats import choose_format
    from gpuknn.gold.file import holds_gold
    from gpuknn.vectors.location import is_url

    for name in ("workers", "shard_rows", "chunk_rows"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if chosen.destination is None:
        if not chosen.check:
            raise InputError("name the file or store to write")
        return _check_alone(chosen)
    store = is_url(chosen.destination) or os.path.isdir(chosen.destination)
    target = choose_format(chosen.destination, chosen.to or ("zarr" if chosen.check and store else None))
    gold = target.gold and not target.vectors
    if target.gold and target.vectors:
        gold = not is_url(chosen.source) and holds_gold(chosen.source, chosen.key)
    if chosen.check:
        return _check_gold(chosen) if gold else _check_vectors(chosen)
    if chosen.cluster != "local" and chosen.workers:
        raise InputError(f"--workers: the cluster {chosen.cluster} has the workers that it has; leave it out")
    return _convert_gold(chosen, target) if gold else _convert_vectors(chosen, target)


def _convert_vectors(chosen: argparse.Namespace, target: "Format") -> int:
    from gpuknn.cli.progress import Bar, Rate
    from gpuknn.convert.choose import Wishes, choose_target
    from gpuknn.convert.formats import choose_dtype
    from gpuknn.jobs.conversion_record import ConversionRecord
    from gpuknn.jobs.convert import Conversion, check_destination, run_convert
    from gpuknn.vectors import open_vectors

    source = open_vectors(chosen.source, chosen.key)
    rows = _rows(chosen, source, choose_dtype(target, chosen.dtype, source.dtype.name, chosen.destination))
    beside = tuple(path for path in (chosen.queries, chosen.gold) if path)
    check_destination(chosen.destination, [chosen.source, *beside], chosen.force, chosen.fresh)
    wishes = Wishes(
        chosen.dst_key,
        chosen.compression,
        chosen.zarr_format,
        chosen.chunk_rows,
        chosen.shard_rows,
        open_vectors(chosen.queries) if chosen.queries else None,
        chosen.gold,
    )
    unfinished = ConversionRecord(chosen.destination).unfinished
    writer = choose_target(target, unfinished, rows.shape, rows.dtype, wishes)
    options = {name: getattr(chosen, name) for name in DECIDE}
    conversion = Conversion(rows, writer, chosen.destination, options, beside)
    n, d = rows.shape
    with Bar(Rate(d * rows.dtype.itemsize, 0), chosen.quiet or chosen.json).shown() as bar:
        bar.title(f"gpuknn convert: {n:,} rows x {d} {source.dtype} to {target.name}, {rows.dtype}")
        step = bar.step("writing", n, computes=False)
        done = run_convert(conversion, chosen.workers, chosen.cluster, chosen.fresh, step.at)
    facts = {"format": target.name, "rows": n, "components": d, "dtype": rows.dtype.name, **vars(done)}
    rate = rows.nbytes * done.written / done.pieces / done.seconds / 1e9
    line = f"{chosen.destination}: {n:,} x {d} {rows.dtype}, {done.seconds:.1f} s, {rate:.2f} GB/s"
    _say(chosen, facts, f"{line}; {_rounded('components', done.error)}")
    return 0


def _say(chosen: argparse.Namespace, facts: dict[str, Any], line: str) -> None:
    if chosen.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    elif not chosen.quiet:
        sys.stdout.write(f"{line}\n")


def _rounded(what: str, error: float) -> str:
    return f"rounding has changed {what} by up to {error:.3g}" if error else "nothing was rounded"


def _rows(chosen: argparse.Namespace, source: "Vectors", dtype: str) -> "Converted":
    """The source's rows as they shall become."""
    import numpy as np

    from gpuknn.convert.rows import Converted

    return Converted.of(source, _range(chosen.rows, len(source)), np.dtype(dtype), chosen.normalize)


def _range(words: str | None, length: int) -> range:
    if words is None:
        return range(length)
    first, colon, stop = words.partition(":")
    try:
        found = range(int(first or 0), int(stop or length))
    except ValueError:
        found = range(0)
    if not colon or not len(found) or found.start < 0 or found.stop > length:
        raise InputError(f"--rows {words}: expected A:B with 0 <= A < B <= {length}")
    return found


def _convert_gold(chosen: argparse.Namespace, target: "Format") -> int:
    import gpuknn
    from gpuknn.convert.formats import choose_dtype
    from gpuknn.convert.gold import IDS_ONLY, save_gold
    from gpuknn.jobs.convert import check_destination
    from gpuknn.vectors.location import is_url

    if is_url(chosen.destination):
        raise InputError(f"{chosen.destination}: into an object store only Zarr is written")
    if target.name in IDS_ONLY and chosen.dtype:
        raise InputError(f"--dtype: {target.name} holds no distances; leave it out")
    gold, said, error = _gold(chosen, choose_dtype(target, chosen.dtype, "", chosen.destination) or None)
    check_destination(chosen.destination, [chosen.source], chosen.force, chosen.fresh)
    plain = {name: value for name, value in said.items() if isinstance(value, str | int | float)}
    notes = plain | {"gpuknn": gpuknn.__version__, "converted_from": Path(chosen.source).name}
    save_gold(gold, target, Path(chosen.destination), chosen.dst_key, notes)
    nq, k = gold.ids.shape
    facts = {"format": target.name, "queries": nq, "k": k, "error": error}
    dists = "distances are left out" if target.name in IDS_ONLY else _rounded("distances", error)
    _say(chosen, facts, f"{chosen.destination}: {nq:,} x {k} neighbours; {dists}")
    return 0


def _gold(chosen: argparse.Namespace, dists: str | None) -> tuple[Any, dict[str, Any], float]:
    """The source's answer, what the file says of it, and the error of rounding."""
    import numpy as np

    from gpuknn.convert.gold import cut_gold
    from gpuknn.gold import read_result

    for name in ("normalize", "queries", "gold", "compression", "zarr_format", "shard_rows", "chunk_rows", "workers"):
        if getattr(chosen, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: {chosen.source} is a gold standard, not vectors; leave it out")
    if chosen.cluster != "local":
        raise InputError("--cluster: a gold standard is converted by this process alone; leave it out")
    if chosen.dtype not in (None, "float32", "float64"):
        raise InputError(f"--dtype {chosen.dtype}: distances are float32 or float64")
    gold, said = read_result(chosen.source, chosen.key)
    kept, error = cut_gold(gold, _range(chosen.rows, len(gold.ids)), np.dtype(dists) if dists else None)
    return kept, said, error


def _check_vectors(chosen: argparse.Namespace) -> int:
    from gpuknn.cli.progress import Bar, Rate
    from gpuknn.convert.check import first_difference
    from gpuknn.vectors import open_vectors

    theirs = open_vectors(chosen.destination, chosen.dst_key)
    ours = _rows(chosen, open_vectors(chosen.source, chosen.key), chosen.dtype or theirs.dtype.name)
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        a, b = (f"{v.shape[0]:,} x {v.shape[1]} {v.dtype}" for v in (ours, theirs))
        return _verdict(chosen, f"{a} beside {b}")
    with Bar(Rate(ours.nbytes // len(ours), 0), chosen.quiet or chosen.json).shown() as bar:
        found = first_difference(ours, theirs, bar.step("comparing", len(ours), computes=False).at)
    if found is None:
        source = ours.source.dtype
        after = f", after turning {source} into {ours.dtype}" if source != ours.dtype else ""
        return _verdict(chosen, None, f"{len(ours):,} x {ours.shape[1]} {ours.dtype}{after}")
    return _verdict(
        chosen, f"first at row {found.row}, component {found.component}: {found.ours:.9g} beside {found.theirs:.9g}"
    )


def _check_alone(chosen: argparse.Namespace) -> int:
    from gpuknn.cli.progress import Bar, Rate
    from gpuknn.convert.notes import first_damage, open_noted

    rows, notes = open_noted(chosen.source, chosen.key)
    with Bar(Rate(rows.nbytes // len(rows), 0), chosen.quiet or chosen.json).shown() as bar:
        damaged = first_damage(rows, notes, bar.step("reading", len(rows), computes=False).at)
    if damaged is not None:
        return _verdict(chosen, f"rows {damaged.start} to {damaged.stop} are not what was written")
    return _verdict(chosen, None, f"{len(rows):,} x {rows.shape[1]} {rows.dtype}, as they were written")


def _check_gold(chosen: argparse.Namespace) -> int:
    from gpuknn.convert.gold import check_gold
    from gpuknn.gold import read_gold

    ours, _, _ = _gold(chosen, chosen.dtype)
    found = check_gold(ours, read_gold(chosen.destination, chosen.dst_key))
    if found.equal:
        return _verdict(chosen, None, f"{found.entries:,} neighbours")
    if found.first is None:
        return _verdict(chosen, f"{found.shapes[0]} neighbours beside {found.shapes[1]}")
    return _verdict(chosen, f"first at query {found.first[0]}, rank {found.first[1]}; gpuknn compare tells more")


def _verdict(chosen: argparse.Namespace, difference: str | None, equal: str = "") -> int:
    if chosen.json:
        sys.stdout.write(json.dumps({"equal": difference is None, "difference": difference}) + "\n")
    else:
        sys.stdout.write(f"not equal: {difference}\n" if difference else f"equal: {equal}\n")
    return 1 if difference else 0
