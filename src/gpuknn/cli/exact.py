"""`gpuknn exact`: the exact k nearest neighbours, written to a gold-standard file."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.cli.options import (
    DEFAULT_METRIC,
    add_crew,
    add_metric,
    add_missing,
    add_shown,
    sayer,
    write_outcome,
)
from gpuknn.cli.subset import add_subset, check_subset, fetch_subset
from gpuknn.errors import InputError, refuse_given
from gpuknn.interrupts import interrupts_told

if TYPE_CHECKING:
    from gpuknn.jobs.exact.plan import Plan
    from gpuknn.jobs.exact.run import Outcome

EXAMPLES = """examples:
  gpuknn exact --subset sample
  gpuknn exact --subset 100K --download
  gpuknn exact database.h5 queries.h5 -k 10 --metric l2 -o gold.h5
  gpuknn exact 'parts/*.npy' queries.h5 -k 10 -o many.h5
  gpuknn exact database.h5 --self -k 32 -o allknn.h5
"""
OPTIONS = (
    *("k", "dists", "self_first", "missing", "ignore_ids", "device", "workers", "threads", "cluster"),
    *("memory", "shard_rows", "run_dir", "fresh", "force", "rates", "performance_report"),
)
"""Of the command, those that `plan_exact` knows by the same names."""
DEFAULT_K = 100
HELP = "compute a gold standard"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    what = parser.add_argument_group("what to search")
    what.add_argument(
        "database",
        nargs="?",
        help="HDF5, .npy, Zarr, Parquet, .fbin, .fvecs ...; (rows, components); FILE:KEY names an array in a file; a "
        "folder, a pattern in quotes, a list file (.txt) or A,B are many files, as one database",
    )
    what.add_argument("queries_file", nargs="?", metavar="queries", help="the same formats")
    add_subset(what, "files")
    what.add_argument("--queries", metavar="SET", help="the subset's: public (default) or private")
    add_missing(what)
    what.add_argument(
        "--ignore-ids",
        action="store_true",
        help="write row numbers alone, even if a file gives its rows ids of their own (Parquet: id; HDF5: ids)",
    )
    what.add_argument(
        "--self",
        action="store_true",
        dest="self_join",
        help="the rows are the queries; a row is left out of its own answer",
    )
    what.add_argument("--self-first", action="store_true", help="the same, but a row stands first in its own answer")
    what.add_argument("-k", type=int, default=DEFAULT_K, help="neighbours for each query (default: %(default)s)")
    add_metric(what)
    what.add_argument(
        "--dists", choices=("float32", "float64"), default="float32", help="how distances are stored; decides ties"
    )
    what.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.h5",
        help="the file to write, in the format of its name: .h5, .ibin, .ivecs, .parquet (subsets: "
        "the published file's name and -gpuknn)",
    )
    what.add_argument("--force", action="store_true", help="replace an existing output")
    how = parser.add_argument_group("how to compute it (the answer's bytes do not depend on it)")
    add_crew(how)
    how.add_argument(
        "--memory",
        metavar="SIZE",
        help="of all processes, or each worker of a cluster (default: half of this machine's)",
    )
    how.add_argument(
        "--shard-rows",
        type=int,
        metavar="N",
        help="rows of a shard; a crash costs those since it was last saved",
    )
    how.add_argument("--run-dir", type=Path, metavar="D", help="where finished shards are kept (default: OUT.h5.run)")
    how.add_argument("--fresh", action="store_true", help="discard what an earlier run has finished")
    how.add_argument(
        "--config",
        type=Path,
        metavar="FILE.yaml",
        help="options, database and queries from a file, `name: value`; the command line goes first",
    )
    how.add_argument(
        "--rates",
        type=Path,
        metavar="FILE.yaml",
        help="to predict the time by (default: what doctor and bench measured)",
    )
    shown = parser.add_argument_group("what to show")
    shown.add_argument("--dry-run", action="store_true", help="check the input's headers, print the plan, stop")
    shown.add_argument(
        "--performance-report", type=Path, metavar="FILE.html", help="Dask's performance report (needs Bokeh)"
    )
    add_shown(shown, "the plan or the outcome")


def run(chosen: argparse.Namespace) -> int:
    """Plan, compute, show."""
    with interrupts_told():
        from gpuknn.cli.progress import shown
        from gpuknn.jobs.exact.exact import plan_exact

        asked = _of_subset(chosen) if chosen.subset else _of_files(chosen)
        if asked is None:
            return 0
        plan = plan_exact(
            *asked.files,
            asked.output,
            metric=asked.metric,
            **{name: getattr(chosen, name) for name in OPTIONS},
            command=chosen.words,
            said=sayer(chosen),
        )
    if chosen.dry_run:
        if plan.crew.yet_to_start:
            count = plan.crew.workers.count
            sayer(chosen)(
                f"{plan.crew.name}: nothing is started; the plan counts on the {count} workers that it describes"
            )
        write_outcome(chosen, plan.facts, f"{plan}\n")
        return 0
    with shown(chosen) as told:
        outcome = plan.run(progress=told)
    known = {"seconds": outcome.seconds, "resumed_rows": outcome.resumed_rows, **vars(outcome.certificate)}
    write_outcome(chosen, plan.facts | known, "" if chosen.quiet else _told(plan, outcome))
    return 0


def _told(plan: "Plan", outcome: "Outcome") -> str:
    """What was done, in lines for a person."""
    from gpuknn.gold.formats import WRITERS, gold_format

    job, output, certificate = plan.job, plan.output, outcome.certificate
    lines = [
        f"{output}: {len(job.queries):,} x {job.k} neighbours in {outcome.seconds:.1f} s; "
        f"{certificate.pairs_refined:,} pairs refined, {certificate.smallest_margin:.0%} of the bound unused"
    ]
    kind = WRITERS[gold_format(output)]
    if job.ids is not None:
        place = "in `ids`, beside row numbers" if kind.HOLDS_OWN_IDS else "in place of row numbers"
        lines.append(f"{job.ids.where} holds the rows' own ids; {output.name} has them {place}")
    if not kind.HOLDS_DISTS:
        lines.append(f"{output.suffix} files hold no distances; they are left out")
    if plan.prediction and not outcome.resumed_rows:
        lines.append(f"predicted: {plan.prediction.seconds:.1f} s, limited by {plan.prediction.limit}")
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Asked:
    """What is searched for what, and where the answer goes."""

    files: tuple[str | Path, str | Path | None]
    """Database and queries; None if they are the rows."""
    output: Path
    metric: str


def _of_subset(chosen: argparse.Namespace) -> Asked | None:
    """What a subset's name means, once its files are there; None if they would be fetched, and that is only planned."""
    from gpuknn.engine.metric import metric_named
    from gpuknn.jobs.exact.exact import check_before
    from gpuknn.laion import subset_files
    from gpuknn.laion.catalogue import SHIPPED, read_catalogue
    from gpuknn.laion.subsets import PUBLIC, find_subset, gold_name

    check_subset(chosen, chosen.database or chosen.queries_file)
    if chosen.self_join or chosen.self_first:
        raise InputError(f"--subset {chosen.subset} has its own queries; name the database instead for --self")
    metric, output = DEFAULT_METRIC, Path("sample-gold-standard.h5")
    if chosen.subset != SHIPPED:
        catalogue = read_catalogue(chosen.catalogue, chosen.base_url)
        subset = find_subset(catalogue, chosen.subset, chosen.bundle, chosen.queries or PUBLIC)
        metric, output = subset.metric, Path(gold_name(subset, chosen.k))
    if chosen.metric is not None and metric_named(chosen.metric) != metric:
        raise InputError(f"--metric {chosen.metric}: this subset is searched under {metric}; name the files instead")
    output = chosen.output or output
    if chosen.subset != SHIPPED and chosen.download:
        check_before(subset.database.rows, output, vars(chosen))
        if not fetch_subset(chosen, [subset.database, subset.queries]):
            return None
    where = {"bundle": chosen.bundle, "data_dir": chosen.data_dir, "catalogue": chosen.catalogue}
    return Asked(subset_files(chosen.subset, queries=chosen.queries or PUBLIC, **where), output, metric)


def _of_files(chosen: argparse.Namespace) -> Asked:
    """The same for files that are named."""
    check_subset(chosen, None)
    refuse_given({"queries": chosen.queries}, "goes with --subset; the file of queries is named after the database")
    if chosen.database and (chosen.self_join or chosen.self_first):
        if chosen.queries_file:
            raise InputError(f"with --self the rows are the queries; leave out {chosen.queries_file}")
    elif not chosen.database or not chosen.queries_file:
        raise InputError("name a database and a file of queries, or a --subset (see gpuknn exact --help)")
    if chosen.output is None:
        raise InputError("name the file to write: -o OUT.h5")
    metric = DEFAULT_METRIC if chosen.metric is None else chosen.metric
    return Asked((chosen.database, chosen.queries_file), chosen.output, metric)
