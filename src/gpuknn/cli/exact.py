"""`gpuknn exact`: the exact k nearest neighbours, written to a gold-standard file."""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.cli.inputs import add_missing, refuse_rows_as_queries
from gpuknn.cli.log import Log, write_event
from gpuknn.errors import InputError
from gpuknn.laion import SUBSETS, gold_name, subset_files

if TYPE_CHECKING:
    from gpuknn.jobs.exact.plan import Job
    from gpuknn.workers.workers import Workers

EXAMPLES = """examples:
  gpuknn exact --subset sample
  gpuknn exact database.h5 queries.h5 -k 10 --metric l2 -o gold.h5
  gpuknn exact database.h5 --self -k 32 -o allknn.h5
"""
DEFAULT_K = 100


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "exact",
        help="compute a gold standard",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    what.add_argument("--metric", choices=("cosine", "ip", "l2", "hamming"), default="cosine")
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
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the cores (default: 1), or have a GPU each (all)"
    )
    how.add_argument("--threads", type=int, metavar="N", help="cores to use in all (default: all)")
    how.add_argument(
        "--cluster",
        metavar="WHERE",
        default="local",
        help="local (default), cuda (this machine's GPUs), a Dask scheduler's address (tcp://...) or scheduler file "
        "(.json), or a cluster file (.yaml: SSH, SLURM, Kubernetes; see configs/)",
    )
    how.add_argument(
        "--memory",
        metavar="SIZE",
        help="of all processes, or each worker of a cluster (default: half of this machine's)",
    )
    how.add_argument("--shard-rows", type=int, metavar="N", help="rows of a shard, what a crash can cost")
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
    shown.add_argument("--quiet", action="store_true", help="no progress")
    shown.add_argument("--report", type=Path, metavar="FILE.html", help="Dask's performance report (needs Bokeh)")
    shown.add_argument("--log-json", action="store_true", help="no progress bar, but a line of JSON for what happens")
    shown.add_argument("--json", action="store_true", help="the plan or the outcome as JSON on standard output")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Check, find the workers, compute."""
    from gpuknn.engine.check import check_question
    from gpuknn.engine.choose import usable_cores
    from gpuknn.engine.metric import Metric
    from gpuknn.jobs.exact.plan import Job, SelfJoin
    from gpuknn.jobs.exact.run import check_format
    from gpuknn.storage.location import split_key
    from gpuknn.vectors import open_vectors
    from gpuknn.vectors.ids import own_ids

    database_path, queries_path, output = _files(chosen)
    for name in ("workers", "threads", "shard_rows"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    database = open_vectors(database_path, missing=chosen.missing)
    self_join = SelfJoin.FIRST if chosen.self_first else SelfJoin.LEFT_OUT if chosen.self_join else SelfJoin.NO
    queries = database if self_join is not SelfJoin.NO else open_vectors(queries_path, missing=chosen.missing)
    if self_join is SelfJoin.NO:
        refuse_rows_as_queries(database, queries, split_key(queries_path)[1] is not None)
    cores = min(chosen.threads or usable_cores(), usable_cores())
    ids = (None, None) if chosen.ignore_ids else (own_ids(database.ids), own_ids(queries.ids))
    job = Job(database, queries, chosen.k, Metric(chosen.metric), chosen.dists, self_join, *ids)
    if self_join is SelfJoin.FIRST and job.k < 2:
        raise InputError(f"k = {job.k}: with --self-first it must be at least 2, the row and a neighbour")
    check_question(database, queries, job.searched_k, chosen.metric, chosen.dists, self_join is not SelfJoin.NO)
    _check_output(output, [database.path, queries.path])
    check_format(job, output)
    run_dir = chosen.run_dir or output.with_name(output.name + ".run")
    resumes = run_dir.is_dir() and not chosen.fresh  # then the output may be that run's own
    if output.exists() and not chosen.force and not resumes:
        raise InputError(f"{output}: exists already; --force replaces it")
    if chosen.report:
        from gpuknn.jobs.watch import check_report

        check_report(chosen.report)
    with _workers(chosen, cores) as (where, workers):
        return _compute(chosen, job, output, run_dir, where, workers)


def _compute(
    chosen: argparse.Namespace, job: "Job", output: Path, run_dir: Path, where: str, workers: "Workers"
) -> int:
    """Plan, compute, report."""
    from gpuknn.cli.plan import check_space, learn, make_plan, show
    from gpuknn.gold.formats import WRITERS, gold_format
    from gpuknn.jobs.exact.plan import operations
    from gpuknn.workers.workers import LOCAL

    database, queries = job.database, job.queries
    plan = make_plan(job, workers, where == LOCAL, chosen.memory, chosen.shard_rows, chosen.rates, run_dir, output)
    if chosen.dry_run:
        show(plan.facts, chosen.json)
        return 0
    check_space(job, workers, plan, run_dir, output)

    from gpuknn.cli.progress import Bar, Rate

    rate = Rate(database.nbytes // len(database), operations(job, 1))
    with (Log() if chosen.log_json else Bar(rate, chosen.quiet or chosen.json)).shown() as bar:
        bar.happened({"event": "plan", **plan.facts})
        bar.title(
            f"gpuknn exact: {len(database):,} rows x {database.shape[1]} {database.dtype}, "
            f"{len(queries):,} queries, k = {chosen.k}, {chosen.metric}, on {workers.count} x {workers.device.name}"
        )
        from gpuknn.jobs.exact.run import Progress, run_exact

        check = bar.step("checking", len(database), computes=False)
        compute = bar.step("computing", len(database), computes=True)
        outcome = run_exact(
            job,
            output,
            run_dir,
            workers,
            plan.block,
            plan.shard_rows,
            fresh=chosen.fresh,
            replace=chosen.force,
            where=where,
            check_threads=plan.check_threads,
            command=chosen.words,
            report=chosen.report,
            progress=Progress(check.at, compute.at, compute.at, said=bar.say, happened=bar.happened),
        )
        if where == LOCAL and not outcome.resumed_rows:
            learn(plan, workers, outcome.seconds)
        certificate = outcome.certificate
        bar.happened({"event": "written", "output": str(output), "seconds": outcome.seconds} | vars(certificate))
    if chosen.json:
        show(plan.facts | {"seconds": outcome.seconds, "resumed_rows": outcome.resumed_rows} | vars(certificate), True)
    elif not chosen.quiet:
        sys.stdout.write(
            f"{output}: {len(queries):,} x {chosen.k} neighbours in {outcome.seconds:.1f} s; "
            f"{certificate.pairs_refined:,} pairs refined, {certificate.smallest_margin:.0%} of the bound unused\n"
        )
        kind = WRITERS[gold_format(output)]
        if job.ids is not None:
            place = "in `ids`, beside row numbers" if kind.HOLDS_OWN_IDS else "in place of row numbers"
            sys.stdout.write(f"{job.ids.where} holds the rows' own ids; {output.name} has them {place}\n")
        if not kind.HOLDS_DISTS:
            sys.stdout.write(f"{output.suffix} files hold no distances; they are left out\n")
        if plan.prediction and not outcome.resumed_rows:
            sys.stdout.write(f"predicted: {plan.prediction.seconds:.1f} s, limited by {plan.prediction.limit}\n")
    return 0


@contextmanager
def _workers(chosen: argparse.Namespace, cores: int) -> "Iterator[tuple[str, Workers]]":
    """Where the workers asked for are, and what they compute on; what is started for the run ends with it."""
    from gpuknn.workers.workers import LOCAL, choose_workers

    if chosen.cluster in (LOCAL, "cuda"):
        if chosen.cluster == "cuda" and chosen.device == "cpu":
            raise InputError("--cluster cuda: asks for this machine's GPUs, --device cpu for none; leave one out")
        yield LOCAL, choose_workers(chosen.device if chosen.cluster == LOCAL else "cuda", chosen.workers, cores)
        return
    for option in ("workers", "threads"):
        if getattr(chosen, option):
            raise InputError(f"--{option}: the cluster {chosen.cluster} has the workers that it has; leave it out")
    from gpuknn.workers.cluster_file import read_cluster

    source = read_cluster(chosen.cluster)
    from gpuknn.workers.launch import at_work

    def said(line: str) -> None:
        if chosen.log_json:
            write_event({"event": "said", "line": line})
        elif not chosen.quiet and not chosen.json:
            sys.stderr.write(f"gpuknn: {line}\n")

    with at_work(source, chosen.device, cores, chosen.dry_run, said) as found:
        yield found


def _files(chosen: argparse.Namespace) -> tuple[str | Path, str | Path, Path]:
    """Database, queries and output, from the subset's name or as given."""
    if chosen.subset:
        if named := chosen.database or chosen.queries_file:
            raise InputError(f"--subset {chosen.subset} names the files; leave out {named}")
        if chosen.self_join or chosen.self_first:
            raise InputError(f"--subset {chosen.subset} has its own queries; name the database instead for --self")
        if chosen.metric != "cosine":
            raise InputError(f"--metric {chosen.metric}: subsets are searched under cosine; name the files instead")
        database, queries = subset_files(chosen.subset, chosen.queries, chosen.data_dir)
        return database, queries, chosen.output or Path(gold_name(chosen.subset, chosen.queries, chosen.k))
    if chosen.database and (chosen.self_join or chosen.self_first):
        if chosen.queries_file:
            raise InputError(f"with --self the rows are the queries; leave out {chosen.queries_file}")
        chosen.queries_file = chosen.database
    if not chosen.database or not chosen.queries_file:
        raise InputError("name a database and a file of queries, or a --subset (see gpuknn exact --help)")
    if chosen.output is None:
        raise InputError("name the file to write: -o OUT.h5")
    return chosen.database, chosen.queries_file, chosen.output


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no name for a file ({getattr(error, 'strerror', error)})") from error


def _check_output(output: Path, inputs: list[str | Path]) -> None:
    """Raise InputError where the output cannot be written."""
    from gpuknn.storage.location import is_url

    if re.match(r"[a-z0-9]+:/", str(output)):
        raise InputError(f"{output}: the answer is written to a file of this machine, not to a URL; name a file")
    if _exists(output):
        if any(output.samefile(path) for path in inputs if not is_url(path)):
            raise InputError(f"{output}: is an input of this very command; name another output")
        if not output.is_file():
            raise InputError(f"{output}: is not a file; name one")
    folder = output.parent
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder to write {output.name} to")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{output.name}.", suffix=".part"):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"{output}: cannot be written ({getattr(error, 'strerror', error)})") from error
