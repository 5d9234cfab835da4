"""`gpuknn exact`: the exact k nearest neighbours, written to a gold-standard file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.cli.options import add_crew, add_metric, add_missing, add_shown, sayer, write_outcome
from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told
from gpuknn.laion import SUBSETS, gold_name, subset_files

if TYPE_CHECKING:
    from gpuknn.jobs.exact.plan import Plan
    from gpuknn.jobs.exact.run import Outcome

EXAMPLES = """examples:
  gpuknn exact --subset sample
  gpuknn exact database.h5 queries.h5 -k 10 --metric l2 -o gold.h5
  gpuknn exact database.h5 --self -k 32 -o allknn.h5
"""
OPTIONS = (
    *("k", "metric", "dists", "self_first", "missing", "ignore_ids", "device", "workers", "threads", "cluster"),
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
        help="HDF5, .npy, Zarr, Parquet, .fbin, .fvecs ...; (rows, components); FILE:KEY names an array in a file",
    )
    what.add_argument("queries_file", nargs="?", metavar="queries", help="the same formats")
    what.add_argument("--subset", choices=SUBSETS, help="a LAION2B subset instead, or the sample that is shipped")
    what.add_argument("--queries", choices=("public", "private"), default="public", help="the subset's queries")
    what.add_argument("--data-dir", type=Path, metavar="D", help="where subsets lie (default: the user's data folder)")
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
        help="the file to write, in the format of its name: .h5, .ibin, .ivecs, .parquet (subsets: published name)",
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

        database, queries, output = _files(chosen)
        plan = plan_exact(
            database,
            queries,
            output,
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


def _files(chosen: argparse.Namespace) -> tuple[str | Path, str | Path | None, Path]:
    """Database, queries (None if they are the rows) and output, from the subset's name or as given."""
    if chosen.subset:
        if named := chosen.database or chosen.queries_file:
            raise InputError(f"--subset {chosen.subset} names the files; leave out {named}")
        if chosen.self_join or chosen.self_first:
            raise InputError(f"--subset {chosen.subset} has its own queries; name the database instead for --self")
        if chosen.metric != "cosine":
            raise InputError(f"--metric {chosen.metric}: subsets are searched under cosine; name the files instead")
        database, queries = subset_files(chosen.subset, queries=chosen.queries, data_dir=chosen.data_dir)
        return database, queries, chosen.output or Path(gold_name(chosen.subset, chosen.queries, chosen.k))
    if chosen.database and (chosen.self_join or chosen.self_first):
        if chosen.queries_file:
            raise InputError(f"with --self the rows are the queries; leave out {chosen.queries_file}")
    elif not chosen.database or not chosen.queries_file:
        raise InputError("name a database and a file of queries, or a --subset (see gpuknn exact --help)")
    if chosen.output is None:
        raise InputError("name the file to write: -o OUT.h5")
    return chosen.database, chosen.queries_file, chosen.output
