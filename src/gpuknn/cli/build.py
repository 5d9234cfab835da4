"""`gpuknn build`: raw parts of LAION2B, or of another dataset, to a bundle, its captions and public queries."""

import argparse
from pathlib import Path

from gpuknn.cli.options import add_cluster, add_shown, sayer, write_outcome
from gpuknn.interrupts import interrupts_told

EXAMPLES = """examples:
  gpuknn build raw --subset 10M -o bundles
  gpuknn build raw --subset 100K --public-queries 0 -o bundles
  gpuknn build raw --rule 'NSFW=UNLIKELY' --columns url,caption -o mine
"""
HELP = "make a bundle of raw parts"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "raw",
        metavar="RAW",
        help="the folder of img_emb_0000.npy (or .npz, .h5) and metadata_0000.parquet, or a folder that holds the "
        "folders img_emb and metadata",
    )
    what = parser.add_argument_group("what to build")
    what.add_argument(
        "--subset",
        metavar="S",
        help="100K, 300K, 10M, 30M or 100M of LAION2B (default: all parts that there are, as database.h5 and meta.tsv)",
    )
    what.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder to write to; gpuknn makes it if it is not there",
    )
    what.add_argument(
        "--rule",
        metavar="RULE",
        help="which rows are kept: COLUMN=A,B (these values), COLUMN!=A,B (other values) or all; 'COLUMN!=A or "
        "missing' also keeps rows without a value (default: NSFW!=NSFW; of 100K and 300K 'NSFW!=NSFW or missing')",
    )
    what.add_argument(
        "--columns", metavar="A,B", help="the columns that the captions file holds (default: caption,NSFW,LICENSE,url)"
    )
    what.add_argument(
        "--public-queries",
        type=int,
        metavar="N",
        help="how many queries to draw from part 0, with --subset; 0 draws none.  Rows with near duplicates in the "
        "database are left out (default: 10,000)",
    )
    what.add_argument("--catalogue", type=Path, metavar="FILE.toml", help="another dataset's parts and subsets")
    what.add_argument("--force", action="store_true", help="replace files that exist")
    how = parser.add_argument_group("how to build it (the files' bytes do not depend on it)")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: threads of this one)")
    add_cluster(how)
    how.add_argument("--fresh", action="store_true", help="discard what an earlier, unfinished build has left")
    how.add_argument("--dry-run", action="store_true", help="look at the headers of all parts, print the plan, stop")
    add_shown(parser, "the outcome")


def run(chosen: argparse.Namespace) -> int:
    """Plan, build, show."""
    with interrupts_told():
        from gpuknn.cli.progress import shown
        from gpuknn.jobs.build.job import Job
        from gpuknn.jobs.build.plan import plan_build
        from gpuknn.jobs.build.run import run_build
        from gpuknn.workers.crew import hire

        catalogue = str(chosen.catalogue) if chosen.catalogue else None
        job = Job(chosen.raw, chosen.subset, chosen.rule, chosen.columns, chosen.public_queries, catalogue)
        crew = hire(chosen.cluster, workers=chosen.workers, computes=False, said=sayer(chosen))
        plan = plan_build(job, chosen.output, crew, chosen.fresh, chosen.force, chosen.words)
    if chosen.dry_run:
        write_outcome(chosen, plan.facts, f"{plan.title}\n")
        return 0
    with shown(chosen) as told:
        done = run_build(plan, told)
    lines = [
        f"{done.database}: {done.rows:,} of {done.raw_rows:,} rows in {done.seconds:,.1f} s",
        f"{done.captions}: their captions",
    ]
    if done.queries:
        lines.append(f"{done.queries}: {done.public_queries:,} queries")
    write_outcome(chosen, plan.facts | vars(done), "" if chosen.quiet else "".join(f"{line}\n" for line in lines))
    return 0
