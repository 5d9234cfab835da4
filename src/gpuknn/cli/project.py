"""`gpuknn project`: rows to a few coordinates (PCA) or to binary sketches."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.cli.options import add_crew, add_missing, add_shown, sayer, write_outcome
from gpuknn.cli.plot import check_plot, save_plot
from gpuknn.cli.subset import add_subset, check_subset, fetch_subset, subset_database
from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told

if TYPE_CHECKING:
    from gpuknn.jobs.project.fit import Fitted
    from gpuknn.projections.model import PcaModel

FIT_EXAMPLES = """examples:
  gpuknn project fit --pca 32 database.h5 -o pca32.h5
  gpuknn project fit --hamming 1024 database.h5 -o references.h5
"""
APPLY_EXAMPLES = """examples:
  gpuknn project apply pca32.h5 database.h5 -o database-pca32.h5
  gpuknn project apply pca32.h5 queries.h5 -o queries-pca32.h5
  gpuknn project apply binwalk database.h5 -o database-hamming.h5 --download
"""
EXAMPLES = FIT_EXAMPLES + APPLY_EXAMPLES.partition("\n")[2]
HELP = "rows to a few coordinates (PCA) or to binary sketches"
FIT = """Make a model of a database's rows.

Rows are divided by their lengths first: float16 in float16, as the SISAP challenges' files were made.  PCA adds up
exactly, so the model's bytes do not depend on shards, workers, threads or devices.  A model of sketches is made of
references, different rows that are drawn."""
APPLY = """Write a database's or a set of queries' rows through a model.

PCA gives float32 coordinates, which are searched with --metric l2.  Sketches are uint64 words, searched with --metric
hamming: bit i of a word is 1 if the row is nearer to its reference i than to the next one."""
RANKS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512)
"""Numbers of components of which the explained variance is shown."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the commands of this command, and their options."""
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    plain = argparse.RawDescriptionHelpFormatter
    fitting = parts.add_parser(
        "fit", help="make a model of rows", description=FIT, epilog=FIT_EXAMPLES, formatter_class=plain
    )
    applying = parts.add_parser(
        "apply", help="rows through a model", description=APPLY, epilog=APPLY_EXAMPLES, formatter_class=plain
    )
    _add_fit(fitting)
    _add_apply(applying)
    for each, work in ((fitting, _fit), (applying, _apply)):
        how = each.add_argument_group("how to compute it (the bytes do not depend on it)")
        add_crew(how)
        how.add_argument(
            "--memory",
            metavar="SIZE",
            help="of all processes, or each worker of a cluster (default: half of this machine's)",
        )
        how.add_argument("--force", action="store_true", help="replace an existing output")
        how.add_argument("--fresh", action="store_true", help="discard what an earlier, unfinished call has left")
        how.add_argument("--dry-run", action="store_true", help="look at the headers, print the plan, stop")
        add_shown(each, "the outcome")
        each.set_defaults(part=work)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "database", nargs="?", metavar="DB", help="HDF5, .npy, Zarr, Parquet, .fbin ...; FILE:KEY; or many files"
    )
    add_subset(parser.add_argument_group("a published database"), "DB")
    what = parser.add_argument_group("what to make")
    what.add_argument("--pca", type=int, metavar="D", help="a model of D principal components")
    what.add_argument("--hamming", type=int, metavar="BITS", help="a model of BITS references, a multiple of 64")
    what.add_argument("--seed", type=int, metavar="N", help="of the draw of references (default: 2023)")
    add_missing(what)
    what.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.h5", help="the file to write")
    what.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="of PCA: a picture of the explained variance, .png, .svg or .pdf (needs the extra plot)",
    )


def _add_apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a model's file; or binwalk, the published one (gpuknn data get binwalk)"
    )
    parser.add_argument("source", nargs="?", metavar="SRC", help="rows, in any of the formats; or many files")
    add_subset(parser.add_argument_group("a published database"), "SRC")
    what = parser.add_argument_group("what to write")
    what.add_argument(
        "--as-published",
        action="store_true",
        help="sketches by the arithmetic of the published ones, and how many bits that changes: rows are divided by "
        "their lengths in their own type, distances compared in float32",
    )
    add_missing(what)
    what.add_argument("--ignore-ids", action="store_true", help="leave out the ids that SRC gives its rows")
    what.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file or Zarr store, in the format of its name (.h5 ...)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Do what the command's own command says."""
    code: int = chosen.part(chosen)
    return code


def _fit(chosen: argparse.Namespace) -> int:
    with interrupts_told():
        from gpuknn.cli.progress import shown
        from gpuknn.jobs.project.fit import plan_fit, run_fit
        from gpuknn.jobs.project.job import FitJob
        from gpuknn.storage.destination import check_destination
        from gpuknn.storage.record import Record

        if chosen.plot and not chosen.pca:
            raise InputError(f"--plot {chosen.plot}: references have no variance to draw; leave it out")
        if chosen.plot:
            check_plot(chosen.plot, chosen.force)
        begun = Record.beside(chosen.output).exists and not chosen.fresh
        check_destination(str(chosen.output), [], chosen.force or begun, stores=False)
        database = _source(chosen, chosen.database, "DB")
        if database is None:
            return 0
        job = FitJob(database, chosen.pca, chosen.hamming, chosen.seed, chosen.missing)
        plan = plan_fit(job, chosen.output, _hired(chosen), chosen.memory, chosen.fresh, chosen.force, chosen.words)
    if chosen.dry_run:
        write_outcome(chosen, plan.facts, f"{plan.title}\n{plan.work}\n")
        return 0
    with shown(chosen) as told:
        done = run_fit(plan, told)
    from gpuknn.projections.model import PcaModel

    facts: dict[str, Any] = {"output": str(done.output), "seconds": done.seconds}
    if not isinstance(done.model, PcaModel):
        lines = [f"{done.output}: {done.model.bits:,} references, {done.seconds:.1f} s"]
    else:
        lines = _variance_told(done, done.model)
        facts |= {"explained_variance": done.model.explained_variance.tolist(), "shares": done.model.shares.tolist()}
        facts["total_variance"] = done.model.total_variance
        if chosen.plot:
            _plot(chosen.plot, done.model)
    write_outcome(chosen, plan.facts | facts, "" if chosen.quiet else "".join(f"{line}\n" for line in lines))
    return 0


def _apply(chosen: argparse.Namespace) -> int:
    with interrupts_told():
        from gpuknn.cli.progress import shown
        from gpuknn.jobs.project.apply import plan_apply
        from gpuknn.jobs.project.job import ApplyJob
        from gpuknn.jobs.rewrite.plan import record_at
        from gpuknn.jobs.rewrite.run import run_rewrite

        model = _model(chosen)
        if model is None:
            return 0
        record_at(chosen.output, [model], chosen.force, chosen.fresh)
        source = _source(chosen, chosen.source, "SRC")
        if source is None:
            return 0
        job = ApplyJob(model, source, chosen.as_published, chosen.missing, chosen.ignore_ids)
        plan = plan_apply(job, chosen.output, _hired(chosen), chosen.memory, chosen.fresh, chosen.force, chosen.words)
    if chosen.dry_run:
        work = {"pieces": plan.pieces, "memory": plan.memory, "workers": plan.crew.workers.count}
        write_outcome(chosen, plan.facts | work, f"{plan.title}\n{plan.work}\n")
        return 0
    with shown(chosen) as told:
        done = run_rewrite(plan, told)
    (n, d), read = plan.rows.shape, plan.rows.source.nbytes * done.written / done.pieces
    line = f"{chosen.output}: {n:,} x {d} {plan.rows.dtype}, {done.seconds:.1f} s, {read / done.seconds / 1e9:.2f} GB/s"
    facts = plan.facts | {"output": chosen.output, "seconds": done.seconds}
    if chosen.as_published:
        facts["differing_bits"] = int(done.counted)
        line += f"; {int(done.counted):,} of {64 * d * n:,} bits differ from those that float64 gives"
    write_outcome(chosen, facts, "" if chosen.quiet else f"{line}\n")
    return 0


def _model(chosen: argparse.Namespace) -> str | None:
    """A model's file; the published one is fetched first if that is asked for, None if that is only planned."""
    from gpuknn.laion.catalogue import read_catalogue
    from gpuknn.laion.subsets import find_model, model_path

    found = find_model(read_catalogue(None, chosen.base_url), chosen.model)
    if found and chosen.download and not fetch_subset(chosen, [found]):
        return None
    path = str(model_path(chosen.model, chosen.data_dir))
    if found and not chosen.subset:  # the options were the model's
        chosen.download, chosen.data_dir, chosen.base_url = False, None, None
    return path


def _source(chosen: argparse.Namespace, named: str | None, what: str) -> str | None:
    """What is read: a file, or a subset's database; None if it would be fetched, and that is only planned."""
    check_subset(chosen, named)
    if not named and not chosen.subset:
        raise InputError(f"name the rows: {what}, or --subset S")
    return named if named else subset_database(chosen)


def _hired(chosen: argparse.Namespace) -> Any:
    from gpuknn.workers.crew import hire

    return hire(chosen.cluster, chosen.device, chosen.workers, chosen.threads, said=sayer(chosen))


def _variance_told(done: "Fitted", model: "PcaModel") -> list[str]:
    """How much of the variance the components explain, in lines for a person."""
    shares, (wanted, d) = model.shares.cumsum(), model.components.shape
    told = [f"{rank}: {shares[rank - 1]:.1%}" for rank in (*(rank for rank in RANKS if rank < wanted), wanted)]
    return [
        f"{done.output}: {wanted} of {d} components explain {shares[-1]:.1%} of the variance of {model.rows:,} rows, "
        f"{done.seconds:.1f} s",
        f"explained by the first {', '.join(told)}",
    ]


def _plot(path: Path, model: "PcaModel") -> None:
    """The share of the variance that each component explains, and that of all up to it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, ranks = figure.subplots(), range(1, len(model.shares) + 1)
    axes.bar(ranks, 100 * model.shares, color="tab:blue", label="each component")
    axes.plot(ranks, 100 * model.shares.cumsum(), color="tab:orange", label="all up to it")
    axes.set(
        xlabel="principal component",
        ylabel="explained variance in per cent",
        xlim=(0.5, len(ranks) + 0.5),
        ylim=(0, None),
    )
    axes.set_title(f"{model.rows:,} rows, {len(ranks)} of {model.components.shape[1]} components")
    axes.legend()
    save_plot(figure, path)
