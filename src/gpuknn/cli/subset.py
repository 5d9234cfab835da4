"""`--subset`: a published database in place of files, and `--download`, which fetches it first."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuknn.cli.data import table_of
from gpuknn.cli.options import add_catalogue, add_mirror, write_outcome
from gpuknn.errors import InputError, refuse_given

if TYPE_CHECKING:
    from gpuknn.laion.catalogue import RemoteFile


def add_subset(group: argparse._ActionsContainer, what: str) -> None:
    """Describe the options that name a subset in place of `what`."""
    group.add_argument(
        "--subset",
        metavar="S",
        help=f"in place of {what}: sample (shipped), or 100K, 300K, 10M, 30M or 100M of LAION2B",
    )
    group.add_argument("--download", action="store_true", help="first fetch what is missing of the subset")
    add_catalogue(group)
    add_mirror(group)


def check_subset(chosen: argparse.Namespace, named: str | None) -> None:
    """Raise InputError if a subset is named beside a file (`named`), or its options without it."""
    from gpuknn.laion.catalogue import SHIPPED

    if chosen.subset and named:
        raise InputError(f"--subset {chosen.subset} names the files; leave out {named}")
    options = {name: getattr(chosen, name) for name in ("bundle", "download", "data_dir", "catalogue", "base_url")}
    if chosen.subset == SHIPPED:
        refuse_given(options, "the sample is shipped")
    if not chosen.subset:
        refuse_given(options, "goes with --subset")
    if chosen.base_url and not chosen.download:
        raise InputError("--base-url: says where --download fetches from; add that, or leave it out")


def subset_database(chosen: argparse.Namespace) -> str | None:
    """The subset's database, fetched first if that is asked for; None if that is only planned, as `--dry-run` asks."""
    from gpuknn.laion.catalogue import SHIPPED, read_catalogue
    from gpuknn.laion.subsets import database_path, find_database

    if chosen.subset != SHIPPED and chosen.download:
        catalogue = read_catalogue(chosen.catalogue, chosen.base_url)
        if not fetch_subset(chosen, [find_database(catalogue, chosen.subset, chosen.bundle)]):
            return None
    return str(database_path(chosen.subset, chosen.bundle, chosen.data_dir, chosen.catalogue))


def fetch_subset(chosen: argparse.Namespace, files: Sequence["RemoteFile"]) -> bool:
    """Fetch what is missing of a subset's files; False if that is only planned, as `--dry-run` asks."""
    from gpuknn.cli.progress import shown
    from gpuknn.jobs.download.plan import plan_download
    from gpuknn.jobs.download.run import run_download
    from gpuknn.laion.held import data_folder

    plan = plan_download(files, data_folder(chosen.data_dir), False, chosen.words)
    dry_run = getattr(chosen, "dry_run", False)
    if plan.to_fetch and dry_run:
        words = f"{plan.title}: {plan.size}\n{table_of(plan.files)}the plan of the work comes once they are here\n"
        write_outcome(chosen, plan.facts, words)
        return False
    if plan.to_do and not dry_run:
        with shown(chosen) as told:
            run_download(plan, told)
    return True
