"""`gpuknn.build`: raw parts to a bundle in one call, as the command does it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.build.job import Job
from gpuknn.jobs.build.plan import plan_build
from gpuknn.jobs.build.run import Outcome, run_build
from gpuknn.jobs.command import command_line
from gpuknn.progress import Listener, listening
from gpuknn.workers.crew import hire
from gpuknn.workers.workers import LOCAL

if TYPE_CHECKING:
    from distributed import Client


def build(
    raw: str | Path,
    output: str | Path,
    *,
    subset: str | None = None,
    rule: str | None = None,
    columns: str | Sequence[str] | None = None,
    public_queries: int | None = None,
    catalogue: str | Path | None = None,
    workers: int | None = None,
    cluster: str | Path = LOCAL,
    client: "Client | None" = None,
    force: bool = False,
    fresh: bool = False,
    progress: bool | Listener = False,
) -> Outcome:
    r"""Make a bundle of raw parts: `gpuknn build` as a function, with the same options, bytes and crash safety.

    Parameters
    ----------
    raw
        The folder of `img_emb_0001.npy` (or .npz, .h5) and `metadata_0001.parquet`, or of the folders `img_emb` and
        `metadata` that hold them.
    output
        The folder to write to.  It is made if it is not there.
    subset
        100K, 300K, 10M, 30M or 100M; without it all parts become `database.h5` and `meta.tsv`.
    rule
        Which rows are kept: "COLUMN=A,B" (those values), "COLUMN!=A,B" (other values) or "all";
        " or missing" at the end also keeps rows without a value.  By default "NSFW!=NSFW"; of 100K and 300K
        "NSFW!=NSFW or missing".
    columns
        Of the captions: a list, or text with commas; by default "caption,NSFW,LICENSE,url".
    public_queries
        How many are drawn from part 0; by default 10,000 if a subset is built.
    catalogue
        A file of another dataset's parts and subsets.
    workers, cluster, client
        Processes of this machine (by default threads of this one), a Dask cluster, or a `distributed.Client`.
    force, fresh
        Replace files that exist; discard what an earlier, unfinished call has left.
    progress
        True for a bar in a terminal or a notebook, or a function that is told what happens.

    Returns
    -------
    Outcome
        `database`, `captions`, `queries`: paths; `rows`, `raw_rows`, `public_queries`: numbers; `seconds`.

    Raises
    ------
    InputError
        A part is missing, short or holds other things than it must; nothing is left of the work.
    RunError, OSError
        The same call goes on later.
    Interrupted
        A KeyboardInterrupt that says what is kept.

    Examples
    --------
    >>> import gpuknn, os, numpy as np, pyarrow as pa, pyarrow.parquet as pq
    >>> os.makedirs("raw", exist_ok=True)
    >>> np.save("raw/img_emb_0.npy", np.eye(4, dtype=np.float16))
    >>> pq.write_table(pa.table({"url": list("abcd"), "punsafe": [0, 1, 0, 0]}), "raw/metadata_0.parquet")
    >>> built = gpuknn.build("raw", "built", rule="punsafe=0", columns="url")
    >>> built.rows, built.raw_rows, built.captions.read_text()
    (3, 4, 'url\na\nc\nd\n')
    """
    columns = columns if columns is None or isinstance(columns, str) else ",".join(columns)
    job = Job(
        str(Path(raw).absolute()), subset, rule, columns, public_queries, None if catalogue is None else str(catalogue)
    )
    folder = Path(output).absolute()
    options = {name: value for name, value in vars(job).items() if name != "raw"}
    cluster_named = None if str(cluster) == LOCAL else cluster
    command = command_line(
        "build",
        [job.raw],
        options | {"output": folder, "workers": workers, "cluster": cluster_named, "force": force},
    )
    crew = hire(cluster, workers=workers, client=client, computes=False)
    with interrupts_told(), listening(progress) as told:
        return run_build(plan_build(job, folder, crew, fresh, force, command), told)
