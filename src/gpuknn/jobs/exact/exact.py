"""`gpuknn.exact`: the job in one call, as the command does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.errors import InputError, option, whole_number
from gpuknn.gold.formats import gold_format
from gpuknn.interrupts import interrupts_told
from gpuknn.jobs.command import command_line
from gpuknn.jobs.exact.job import SelfJoin, ask
from gpuknn.jobs.exact.plan import Plan, Wishes, check_output, planned
from gpuknn.progress import Listener, listening
from gpuknn.vectors import Rows, Vectors
from gpuknn.vectors.names import absolute_name, one_name
from gpuknn.vectors.opening import are_paths
from gpuknn.vectors.written import Missing
from gpuknn.workers.crew import hire
from gpuknn.workers.memory import memory_budget
from gpuknn.workers.workers import LOCAL

if TYPE_CHECKING:
    from distributed import Client

    from gpuknn.jobs.exact.run import Outcome


class ExactPlan(Plan):
    """How `exact` will do a job, a table in print; nothing is started or written before `run`."""

    def run(self, *, progress: bool | Listener = False) -> "Outcome":
        """Compute the answer and write it; goes on from what an earlier run has finished.

        `progress`: True for a bar in a terminal or a notebook, or a function that is told what happens (`run_exact`).
        Raises InputError if rows cannot be measured or the record belongs to another job; RunError if the run failed,
        or Interrupted, a KeyboardInterrupt, which says what is kept: the same plan goes on from there.
        """
        from gpuknn.jobs.exact.run import run_exact

        with listening(progress) as told:
            return run_exact(self, told)


def exact(
    database: Rows,
    queries: Rows | None,
    output: str | Path,
    *,
    k: int = 100,
    metric: str = "cosine",
    client: "Client | None" = None,
    progress: bool | Listener = False,
    dists: str = "float32",
    self_first: bool = False,
    missing: Missing = "refuse",
    ignore_ids: bool = False,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    cluster: str | Path = LOCAL,
    memory: str | None = None,
    shard_rows: int | None = None,
    run_dir: str | Path | None = None,
    fresh: bool = False,
    force: bool = False,
    rates: str | Path | None = None,
    performance_report: str | Path | None = None,
) -> "Outcome":
    """Compute a gold standard file: `gpuknn exact` as a function, with the same options, bytes and crash safety.

    Finished shards are kept in a folder beside the output until the file is written.  After a crash, a kill or an
    interrupt the same call goes on from there; so does the command.

    Parameters
    ----------
    database, queries
        Paths, `FILE:KEY`, URLs, names that stand for many files, lists of these, or what `open_vectors` gives: rows
        (n, d) and (nq, d), of the types that `exact_knn` takes: under hamming booleans, uint8 or int8 with eight bits
        in a byte, or words of uint64.  Queries of None are the rows themselves, each of which is left out of its own
        answer.  (`exact_knn` takes arrays in memory.)
    output
        The file; its suffix tells the format: .h5, .ibin, .ivecs, .parquet.
    k, metric
        As in `exact_knn`.
    client
        A `distributed.Client`, whose workers compute; the client and its cluster are left as they were.  Without it
        (and without `cluster`) this machine computes: its GPUs if there are any, else the processor.
    progress
        True for a bar in a terminal or a notebook, or a function that is told what happens, as mappings.

    Other Parameters
    ----------------
    dists : str
        float32 (default) or float64: how distances are stored, and so what a tie is.
    self_first : bool
        If the rows are the queries: a row stands first in its own answer.
    missing : str
        What becomes of rows that nobody wrote: refuse (default), or zeros.
    ignore_ids : bool
        Write row numbers alone, even if a file gives its rows ids of their own.
    device : str
        auto (default), cpu or cuda.
    workers, threads : int
        Processes of this machine (by default one, or one for each GPU), and the cores that they share (all).  A script
        that asks for several processes must call this under `if __name__ == "__main__":`.
    cluster : str or Path
        A Dask scheduler's address or file, or a cluster file (.yaml: SSH, SLURM, Kubernetes).
    memory : str
        Of all processes together, or of each worker of a cluster, as "8GiB"; by default half of the machine's, or of a
        worker's limit.
    shard_rows : int
        Rows of a shard; a crash costs those since it was last saved.
    run_dir : str or Path
        Where finished shards are kept; by default the output's name with .run.
    fresh : bool
        Discard what an earlier run has finished.
    force : bool
        Replace an output that exists.
    rates, performance_report : str or Path
        A file of rates to predict the time by, and one for Dask's performance report.

    Returns
    -------
    Outcome
        `output`; `certificate`, which says what proves the answer; `seconds`; `device`; `shards`; `resumed_rows`.

    Raises
    ------
    InputError
        The input or an option is wrong; nothing was written.
    RunError
        The run failed; the same call goes on from what was finished.
    Interrupted
        A KeyboardInterrupt that says what is kept; shards under way were saved.

    Examples
    --------
    >>> import gpuknn
    >>> database, queries = gpuknn.subset_files("sample")
    >>> outcome = gpuknn.exact(database, queries, "gold.h5", k=10)
    >>> gpuknn.read_gold(outcome.output)
    Gold(200 queries x 10, cosine, float32 distances)
    """
    with interrupts_told(), listening(progress) as told:
        plan = plan_exact(
            database,
            queries,
            output,
            k=k,
            metric=metric,
            client=client,
            dists=dists,
            self_first=self_first,
            missing=missing,
            ignore_ids=ignore_ids,
            device=device,
            workers=workers,
            threads=threads,
            cluster=cluster,
            memory=memory,
            shard_rows=shard_rows,
            run_dir=run_dir,
            fresh=fresh,
            force=force,
            rates=rates,
            performance_report=performance_report,
            said=lambda line: told({"event": "said", "line": line}),
        )
        return plan.run(progress=told)


def plan_exact(
    database: Rows,
    queries: Rows | None,
    output: str | Path,
    *,
    k: int = 100,
    metric: str = "cosine",
    client: "Client | None" = None,
    dists: str = "float32",
    self_first: bool = False,
    missing: Missing = "refuse",
    ignore_ids: bool = False,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    cluster: str | Path = LOCAL,
    memory: str | None = None,
    shard_rows: int | None = None,
    run_dir: str | Path | None = None,
    fresh: bool = False,
    force: bool = False,
    rates: str | Path | None = None,
    performance_report: str | Path | None = None,
    command: Sequence[str] | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> ExactPlan:
    """How `exact` would do it: headers are read, nothing is started or written.  `plan.run()` does it.

    It takes what `exact` takes.  The plan's `seconds` are None if nobody has measured this machine (`gpuknn doctor
    --full` does); `memory` is that of a worker in bytes; `shards` are those of each of its `passes` over the database.
    `command`: the words of a command line that does the same, for `gpuknn runs`.  `said`: is told lines for a person.

    Raises InputError if the input or an option is wrong, or the work does not fit into memory.

    >>> import gpuknn
    >>> plan = gpuknn.plan_exact(*gpuknn.subset_files("sample"), "gold.h5", k=10)
    >>> plan.shards, plan.passes
    (1, 1)
    >>> plan.run().output.name
    'gold.h5'
    """
    if command is None:  # a program may change its working folder
        database, queries, output = _absolute(database), _absolute(queries), Path(output).absolute()
        run_dir = Path(run_dir).absolute() if run_dir else None
        options = {"k": k, "metric": metric, "dists": dists, "missing": missing, "ignore_ids": ignore_ids}
        options |= {"self": queries is None, "self_first": self_first, "device": device, "workers": workers}
        options |= {"threads": threads, "cluster": cluster, "memory": memory, "shard_rows": shard_rows}
        options |= {"run_dir": run_dir, "force": force, "rates": rates, "performance_report": performance_report}
        files = [_words(rows) for rows in (database, queries) if rows is not None]
        if any(isinstance(rows, Vectors) and rows.missing == "zeros" for rows in (database, queries)):
            options["missing"] = "zeros"
        usual = plan_exact.__kwdefaults__ or {}
        said_of = {name: value for name, value in options.items() if value != usual.get(name)}
        command = command_line("exact", files, {"output": output, **said_of})
    wishes = Wishes(
        memory=memory,
        shard_rows=None if shard_rows is None else whole_number("shard_rows", shard_rows),
        rates=Path(rates) if rates else None,
        run_dir=Path(run_dir) if run_dir else None,
        fresh=fresh,
        force=force,
        performance_report=Path(performance_report) if performance_report else None,
        command=command,
    )
    if wishes.performance_report:
        from gpuknn.jobs.watch import check_report

        check_report(wishes.performance_report)
    self_join = SelfJoin.FIRST if self_first else SelfJoin.LEFT_OUT if queries is None else SelfJoin.NO
    job = ask(database, queries, k, metric, dists, self_join, missing, ignore_ids)
    crew = hire(cluster, device, workers, threads, client, said=said)
    if wishes.performance_report:  # which is Dask's
        crew = replace(crew, threads=0)
    return ExactPlan(**vars(planned(job, Path(output), crew, wishes)))


def check_before(rows: int | None, output: Path, options: Mapping[str, Any]) -> None:
    """Raise InputError for what can be told before the database is there: it may have to be fetched first.

    `rows`: how many it has, if that is known.  `options`: those of `plan_exact`, by their names.
    """
    k = whole_number("k", options["k"])
    if rows is not None and k > rows:
        raise InputError(f"{option('k', k)}: the database has only {rows:,} rows")
    if options["shard_rows"] is not None:
        whole_number("shard_rows", options["shard_rows"])
    if options["memory"] is not None:
        memory_budget(options["memory"])
    hire(*(options[name] for name in ("cluster", "device", "workers", "threads")))
    gold_format(output)
    check_output(output, [], Wishes(run_dir=options["run_dir"], fresh=options["fresh"], force=options["force"]))


def _words(rows: Rows) -> str:
    """The name of rows on the command line."""
    if isinstance(rows, Vectors):
        return rows.asked
    return one_name(rows) if are_paths(rows) else str(rows)


def _absolute(rows: Rows | None) -> Rows | None:
    """The same place, or rows, in any working folder; `FILE:KEY` keeps its key."""
    if isinstance(rows, str | PathLike):
        return absolute_name(str(rows))
    if are_paths(rows):
        return [absolute_name(str(name)) for name in rows]
    return rows.absolute() if isinstance(rows, Vectors) and rows.in_files else rows
