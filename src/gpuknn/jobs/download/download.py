"""`gpuknn.download`: `gpuknn data get` in one call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuknn.errors import InputError
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.command import command_line
from gpuknn.jobs.download.plan import plan_download
from gpuknn.laion.catalogue import read_catalogue
from gpuknn.laion.held import data_folder
from gpuknn.laion.select import Wanted, select
from gpuknn.progress import Listener, listening
from gpuknn.storage.location import absolute


def download(
    what: str | Sequence[str] | None = None,
    *,
    bundle: str | None = None,
    queries: str | None = None,
    gold: str | None = None,
    meta: bool = False,
    data_dir: str | Path | None = None,
    catalogue: str | Path | None = None,
    base_url: str | None = None,
    fresh: bool = False,
    progress: bool | Listener = False,
) -> list[Path]:
    """Fetch published files into a data folder: `gpuknn data get` as a function; the paths of these files.

    A file gets its name once it is whole and its md5 sum is the catalogue's.  No file is ever replaced.  After a crash,
    a kill or an interrupt the same call goes on.

    >>> import gpuknn
    >>> database, queries = gpuknn.download("100K", queries="public")  # doctest: +SKIP

    Parameters
    ----------
    what
        One or more subsets (`"10M"`), bundles (`"pca32"`), names of files, or patterns of names (`"*hamming*"`).
    bundle
        Which database, queries and gold standards of a subset are meant: clip768 (default), pca32, pca96, hamming; or
        all files of a bundle, if `what` is None.
    queries, gold, meta
        Beside a subset's database: these queries (public, private), gold standards of this generation (f32, f64), and
        captions.
    data_dir
        The folder; by default the user's data folder.
    catalogue, base_url
        Another dataset's catalogue (.toml), and a mirror that has the files under their names.
    fresh
        Discard what an earlier, unfinished call has fetched of them.
    progress
        True for a bar in a terminal or a notebook, or a function that is told what happens, as mappings.

    Raises
    ------
    InputError
        There are no such files, there is no room, or what the server has is not the catalogue's.
    RunError
        Something failed that may pass; the same call goes on from what was fetched.
    Interrupted
        It was interrupted; the message says what is kept.
    """
    from gpuknn.jobs.download.run import run_download

    what = (what,) if isinstance(what, str) else tuple(what or ())
    files = select(read_catalogue(catalogue, base_url), Wanted(what, bundle, queries, gold, meta))
    if not files:
        raise InputError("what: name a subset, a bundle, or a pattern of files' names")
    asked: dict[str, Any] = {"bundle": bundle, "queries": queries, "gold": gold, "meta": meta, "base_url": base_url}
    asked |= {"catalogue": catalogue and absolute(str(catalogue)), "data_dir": data_dir and absolute(str(data_dir))}
    command = ["data", *command_line("get", what, asked)]
    with interrupts_told(), listening(progress) as told:
        done = run_download(plan_download(files, data_folder(data_dir), fresh, command), told)
    return [each.path for each in done.files]
