"""`gpuknn convert`: vectors and gold standards from one format to another."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.cli.inputs import add_missing
from gpuknn.errors import InputError
from gpuknn.jobs.convert.formats import NAMES

if TYPE_CHECKING:
    from gpuknn.gold import Gold
    from gpuknn.jobs.convert.formats import Format
    from gpuknn.vectors import Vectors
    from gpuknn.vectors.converted import Converted
    from gpuknn.vectors.ids import RowIds

EXAMPLES = """examples:
  gpuknn convert database.h5 database.zarr
  gpuknn convert vectors.fbin vectors.h5 --dtype float16 --normalize
  gpuknn convert vectors.fbin vectors.i8bin --normalize --scale 127 --round
  gpuknn convert gold.h5 gold.ibin
"""
DISTANCES = ("cosine", "ip", "l2", "euclidean", "hamming", "mean-hamming")
"""Those of `gold.distances`, which would load HDF5 before it is needed."""
DECIDE = (
    *("source", "missing", "ignore_ids", "rows", "dtype", "normalize", "scale", "round"),
    *("to", "dst_key", "queries_file", "gold", "distance"),
    *("compression", "zarr_format", "shard_rows", "chunk_rows"),
)
"""Options that decide what is written."""
VECTORS_ONLY = (
    *("ignore_ids", "normalize", "scale", "round", "queries_file", "gold"),
    *("compression", "zarr_format", "shard_rows", "chunk_rows", "workers"),
)
"""Options that a gold standard has no use for."""


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "convert",
        help="convert between formats",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a file of any of the formats, or a Zarr store's folder or URL; SRC:KEY names an array or group in it",
    )
    parser.add_argument("destination", metavar="DST", help="a file, or a Zarr store's folder or URL (s3://...)")
    what = parser.add_argument_group("what to write")
    add_missing(what)
    what.add_argument("--ignore-ids", action="store_true", help="leave out the ids that SRC gives its rows")
    what.add_argument("--to", choices=NAMES, metavar="FORMAT", help=f"{', '.join(NAMES)} (default: by DST's name)")
    what.add_argument("--dst-key", metavar="KEY", help="the array's name in an HDF5 file, the column's in Parquet")
    what.add_argument("--rows", metavar="A:B", help="rows A to B-1, counted from 0; of a gold standard, queries")
    what.add_argument("--dtype", choices=("float16", "float32", "float64", "uint8", "int8"), help="of what is written")
    what.add_argument("--normalize", action="store_true", help="divide each row by its length")
    what.add_argument("--scale", type=float, metavar="S", help="then multiply each component by S")
    what.add_argument(
        "--round", action="store_true", help="round to whole numbers for uint8 and int8, which refuse fractions else"
    )
    what.add_argument("--queries-file", metavar="FILE", help="ann-benchmarks and SISAP: put these beside the rows")
    what.add_argument("--gold", metavar="FILE", help="ann-benchmarks and SISAP: and this answer to them")
    what.add_argument(
        "--distance",
        choices=DISTANCES,
        help="which distances the gold standard holds, if its file does not tell (ann-benchmarks must know)",
    )
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
    """Check, convert, report."""
    from gpuknn.gold import holds_gold
    from gpuknn.jobs.convert.formats import choose_format
    from gpuknn.storage.location import is_url

    for name in ("workers", "shard_rows", "chunk_rows"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    source_gold = not is_url(chosen.source) and holds_gold(chosen.source)
    target = choose_format(chosen.destination, chosen.to)
    gold = target.gold and (source_gold or not target.vectors)
    if chosen.cluster != "local" and chosen.workers:
        raise InputError(f"--workers: the cluster {chosen.cluster} has the workers that it has; leave it out")
    return _convert_gold(chosen, target) if gold else _convert_vectors(chosen, target)


def _convert_vectors(chosen: argparse.Namespace, target: "Format") -> int:
    from gpuknn.cli.progress import Bar, Rate
    from gpuknn.jobs.convert.choose import Wishes, choose_target
    from gpuknn.jobs.convert.conversion_record import ConversionRecord
    from gpuknn.jobs.convert.formats import choose_dtype
    from gpuknn.jobs.convert.run import Conversion, check_destination, run_convert
    from gpuknn.storage.location import split_key
    from gpuknn.vectors import open_vectors

    if chosen.distance and not chosen.gold:
        raise InputError(f"--distance: {chosen.source} holds vectors and no distances; leave it out")
    source = open_vectors(chosen.source, missing=chosen.missing)
    rows = _rows(chosen, source, choose_dtype(target, chosen.dtype, source.dtype.name, chosen.destination))
    beside = tuple(str(split_key(path)[0]) for path in (chosen.queries_file, chosen.gold) if path)
    for option in ("scale", "normalize", "rows"):
        if getattr(chosen, option) and beside:
            raise InputError(
                f"--{option}: would change the rows and not {beside[0]}; convert each file by itself, then put together"
            )
    check_destination(chosen.destination, [source.path, *beside], chosen.force, chosen.fresh)
    wishes = Wishes(
        chosen.dst_key,
        chosen.compression,
        chosen.zarr_format,
        chosen.chunk_rows,
        chosen.shard_rows,
        _queries(chosen),
        chosen.gold,
        chosen.distance,
        _ids(chosen, source),
    )
    unfinished = ConversionRecord(chosen.destination).unfinished
    writer = choose_target(target, unfinished, rows.shape, rows.dtype, wishes, rows.bits)
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


def _queries(chosen: argparse.Namespace) -> "Vectors | None":
    from dataclasses import replace

    from gpuknn.vectors import open_vectors

    queries = open_vectors(chosen.queries_file, missing=chosen.missing) if chosen.queries_file else None
    return replace(queries, ids=None) if queries is not None and chosen.ignore_ids else queries


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

    from gpuknn.vectors.converted import Converted, rows_named

    rows = rows_named(chosen.rows, len(source))
    return Converted.of(source, rows, np.dtype(dtype), chosen.normalize, chosen.scale, chosen.round)


def _ids(chosen: argparse.Namespace, source: "Vectors") -> "RowIds | None":
    """What the source calls the rows that are taken, if that is not their numbers."""
    from gpuknn.vectors.converted import rows_named
    from gpuknn.vectors.ids import own_ids, rows_of

    return None if chosen.ignore_ids else rows_of(own_ids(source.ids), rows_named(chosen.rows, len(source)))


def _convert_gold(chosen: argparse.Namespace, target: "Format") -> int:
    import gpuknn
    from gpuknn.gold import save_gold
    from gpuknn.gold.formats import WRITERS, for_target
    from gpuknn.jobs.convert.formats import choose_dtype
    from gpuknn.jobs.convert.run import check_destination
    from gpuknn.storage.location import is_url, split_key
    from gpuknn.vectors.hdf5 import check_key

    if is_url(chosen.destination):
        raise InputError(f"{chosen.destination}: into an object store only Zarr is written")
    if target.name == "ann-benchmarks" and chosen.dtype == "float64":
        raise InputError("--dtype float64: ann-benchmarks keeps distances as float32; leave it out")
    kind = WRITERS[target.name]
    if not kind.HOLDS_DISTS and chosen.dtype:
        raise InputError(f"--dtype: {target.name} holds no distances; leave it out")
    if chosen.dst_key is not None:
        if target.name != "sisap":
            raise InputError(f"--dst-key: {target.name} files have a place for the gold standard; leave it out")
        check_key(chosen.dst_key)
    narrow = "float32" if target.name == "ann-benchmarks" else None  # as that suite keeps distances
    gold, error = _gold(chosen, choose_dtype(target, chosen.dtype or narrow, "", chosen.destination) or None)
    source = str(split_key(chosen.source)[0])
    check_destination(chosen.destination, [source], chosen.force, chosen.fresh)
    plain = {name: value for name, value in gold.said.items() if isinstance(value, str | int | float)}
    notes = plain | {"gpuknn": gpuknn.__version__, "converted_from": Path(source).name}
    gold = for_target(gold, target.name, chosen.source)
    save_gold(gold, target.name, Path(chosen.destination), chosen.dst_key, notes)
    nq, k = gold.shape
    facts = {"format": target.name, "queries": nq, "k": k, "error": error, "similarities": gold.were_similarities}
    dists = _rounded("distances", error) if kind.HOLDS_DISTS else "distances are left out"
    dists = "there are no distances" if gold.dists is None else dists
    if gold.were_similarities:
        dists += "; the source holds similarities, the largest first"
    if gold.own_ids is not None and not kind.HOLDS_OWN_IDS:
        dists += "; the ids are those that the database's file gives"
    _say(chosen, facts, f"{chosen.destination}: {nq:,} x {k} neighbours; {dists}")
    return 0


def _gold(chosen: argparse.Namespace, dists: str | None) -> "tuple[Gold, float]":
    """The source's answer, and the error of rounding."""
    import numpy as np

    from gpuknn.gold import read_gold
    from gpuknn.gold.distances import told
    from gpuknn.gold.rounding import cut_gold
    from gpuknn.vectors.converted import rows_named

    for name in VECTORS_ONLY:
        value = getattr(chosen, name)
        if value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: {chosen.source} is a gold standard, not vectors; leave it out")
    if chosen.cluster != "local":
        raise InputError("--cluster: a gold standard is converted by this process alone; leave it out")
    if chosen.dtype not in (None, "float32", "float64"):
        raise InputError(f"--dtype {chosen.dtype}: distances are float32 or float64")
    gold = told(read_gold(chosen.source), chosen.distance, chosen.source)
    return cut_gold(gold, rows_named(chosen.rows, len(gold)), np.dtype(dists) if dists else None)
