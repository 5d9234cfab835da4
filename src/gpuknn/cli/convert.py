"""`gpuknn convert`: vectors and gold standards from one format to another."""

import argparse
from typing import TYPE_CHECKING, Any

from gpuknn.cli.log import write_event
from gpuknn.cli.options import add_changes, add_cluster, add_dists_as, add_missing, add_shown, sayer, write_outcome
from gpuknn.cli.subset import add_subset, check_subset, subset_database
from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.rewrite.formats import NAMES

if TYPE_CHECKING:
    from gpuknn.jobs.convert.job import Job

EXAMPLES = """examples:
  gpuknn convert database.h5 database.zarr
  gpuknn convert vectors.fbin vectors.h5 --dtype float16 --normalize
  gpuknn convert vectors.fbin vectors.i8bin --normalize --scale 127 --round
  gpuknn convert gold.h5 gold.ibin
  gpuknn convert gold.h5 angles.h5 --dists-as angle
  gpuknn convert --subset sample sample.zarr
"""
DISTANCES = ("cosine", "ip", "l2", "euclidean", "hamming", "mean-hamming", "angle", "dot")
"""Those of `gold.distances`, which would load HDF5 before it is needed."""
HELP = "convert between formats"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SRC",
        help="a file of any of the formats, or a Zarr store's folder or URL; SRC:KEY names an array or group in it; a "
        "folder, a pattern in quotes, a list file (.txt) or A,B are many files",
    )
    parser.add_argument(
        "destination", nargs="?", metavar="DST", help="a file, or a Zarr store's folder or URL (s3://...)"
    )
    add_subset(parser.add_argument_group("a published database"), "SRC")
    what = parser.add_argument_group("what to write")
    add_missing(what)
    what.add_argument("--ignore-ids", action="store_true", help="leave out the ids that SRC gives its rows")
    what.add_argument("--to", choices=NAMES, metavar="FORMAT", help=f"{', '.join(NAMES)} (default: by DST's name)")
    what.add_argument("--dst-key", metavar="KEY", help="the array's name in an HDF5 file, the column's in Parquet")
    add_changes(what, "of what is written")
    what.add_argument("--queries-file", metavar="FILE", help="ann-benchmarks and SISAP: put these beside the rows")
    what.add_argument("--gold", metavar="FILE", help="ann-benchmarks and SISAP: and this answer to them")
    what.add_argument(
        "--distance",
        choices=DISTANCES,
        help="which distances the gold standard holds, if its file does not tell (ann-benchmarks must know)",
    )
    add_dists_as(what, "the distances that the gold standard gets")
    how = parser.add_argument_group("how to write it")
    how.add_argument("--compression", choices=("none", "zstd", "blosc"), help="of Zarr or Parquet (default: none)")
    how.add_argument("--zarr-format", type=int, choices=(2, 3), help="(default: 3)")
    how.add_argument("--shard-rows", type=int, metavar="N", help="rows of a shard (default: up to 1.5 GiB)")
    how.add_argument("--chunk-rows", type=int, metavar="N", help="rows of a chunk (default: 24 MiB)")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: threads of this one)")
    add_cluster(how)
    how.add_argument(
        "--force", action="store_true", help="replace an existing DST; one at a URL is removed before the first row"
    )
    how.add_argument("--fresh", action="store_true", help="discard what an earlier, unfinished conversion has left")
    add_shown(parser, "the outcome")


def run(chosen: argparse.Namespace) -> int:
    """Plan, convert, show."""
    with interrupts_told():
        from gpuknn.jobs.convert.job import Job

        _name_files(chosen)
        job = Job.of(vars(chosen))
    return _convert_gold(chosen, job) if job.is_gold(chosen.destination) else _convert_vectors(chosen, job)


def _name_files(chosen: argparse.Namespace) -> None:
    """Make source and destination those that are meant: a subset is named in place of the source."""
    named = [place for place in (chosen.source, chosen.destination) if place]
    check_subset(chosen, named[0] if len(named) > 1 else None)
    if len(named) != (1 if chosen.subset else 2):
        raise InputError("name what to convert, and the file to write: SRC DST, or --subset S DST")
    chosen.source, chosen.destination = named if not chosen.subset else (_database(chosen, named[0]), named[0])


def _database(chosen: argparse.Namespace, destination: str) -> str:
    """A subset's database, fetched first if that is asked for and DST can be written."""
    from gpuknn.jobs.rewrite.formats import choose_format
    from gpuknn.jobs.rewrite.plan import record_at

    choose_format(destination, chosen.to)
    record_at(destination, [], chosen.force, chosen.fresh)
    found = subset_database(chosen)
    assert found is not None  # nothing is only planned here
    return found


def _convert_vectors(chosen: argparse.Namespace, job: "Job") -> int:
    with interrupts_told():
        from gpuknn.cli.progress import shown
        from gpuknn.jobs.convert.plan import plan_convert
        from gpuknn.jobs.rewrite.run import run_rewrite
        from gpuknn.workers.crew import hire

        crew = hire(chosen.cluster, workers=chosen.workers, computes=False, said=sayer(chosen))
        plan = plan_convert(job, chosen.destination, crew, chosen.fresh, chosen.force, chosen.words)
    with shown(chosen) as told:
        done = run_rewrite(plan, told)
    (n, d), dtype = plan.rows.shape, plan.rows.dtype
    rate = plan.rows.nbytes * done.written / done.pieces / done.seconds / 1e9
    line = f"{chosen.destination}: {n:,} x {d} {dtype}, {done.seconds:.1f} s, {rate:.2f} GB/s"
    _say(chosen, plan.facts | done.facts(plan.rows.counts), f"{line}; {_rounded('components', done.counted)}")
    return 0


def _convert_gold(chosen: argparse.Namespace, job: "Job") -> int:
    from gpuknn.gold.formats import WRITERS
    from gpuknn.jobs.convert.gold import convert_gold

    if chosen.cluster != "local" or chosen.workers is not None:
        option = "cluster" if chosen.workers is None else "workers"
        raise InputError(
            f"--{option}: {job.source} is a gold standard, which this process converts alone; leave it out"
        )
    done = convert_gold(job, chosen.destination, chosen.force)
    if chosen.log_json:
        write_event({"event": "written", "output": chosen.destination})
    gold, (nq, k), kind = done.gold, done.gold.shape, WRITERS[done.format]
    facts = {"format": done.format, "queries": nq, "k": k, "error": done.error, "similarities": gold.were_similarities}
    dists = _rounded("distances", done.error) if kind.HOLDS_DISTS else "distances are left out"
    dists = "there are no distances" if gold.dists is None else dists
    if gold.were_similarities:
        dists += "; the source holds similarities, the largest first"
    if gold.own_ids is not None and not kind.HOLDS_OWN_IDS:
        dists += "; the ids are those that the database's file gives"
    _say(chosen, facts, f"{chosen.destination}: {nq:,} x {k} neighbours; {dists}")
    return 0


def _say(chosen: argparse.Namespace, facts: dict[str, Any], line: str) -> None:
    write_outcome(chosen, facts, "" if chosen.quiet else f"{line}\n")


def _rounded(what: str, error: float) -> str:
    return f"rounding has changed {what} by up to {error:.3g}" if error else "nothing was rounded"
