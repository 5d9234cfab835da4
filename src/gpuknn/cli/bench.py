"""`gpuknn bench`: what this machine can do, and what of it the engine uses."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.cli.options import add_missing
from gpuknn.errors import InputError, pip_install

if TYPE_CHECKING:
    from gpuknn.bench.measure import Machine, Measurement

EXAMPLES = """examples:
  gpuknn bench --rows 20000 --queries 1000
  gpuknn bench database.h5 queries.h5 -k 100 --peers faiss
"""
GROWTH = 5
"""Sizes that --plot measures, each twice the one before."""

LONG_ENOUGH = 1.0
"""Seconds of a search that tells a rate worth keeping."""


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine and the engine",
        description=f"{__doc__}\n\nBare product, engine and other libraries take turns; the least counts.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("database", nargs="?", help="HDF5, .npy or Zarr (default: random rows)")
    parser.add_argument("queries_file", nargs="?", metavar="queries")
    add_missing(parser)
    parser.add_argument("--rows", type=int, metavar="N", help="rows to search (default: all of the file, or 200000)")
    parser.add_argument("--queries", type=int, metavar="N", help="queries (default: all of the file, or 4000)")
    parser.add_argument("--components", type=int, default=768, metavar="D", help="of random rows (default: 768)")
    parser.add_argument("--metric", choices=("cosine", "ip", "l2", "hamming"), default="cosine")
    parser.add_argument("-k", default="10,100,1000", metavar="K[,K...]", help="neighbours (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="cores to use (default: all)")
    parser.add_argument(
        "--filter", choices=("auto", "float32", "int8"), default="auto", help="of the engine (default: auto)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument("--peers", metavar="NAME,...", help="faiss, sklearn, usearch, or '' (default: the installed)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also measure fewer rows and draw time over rows")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Make or open the data, measure, show."""
    import numpy as np

    from gpuknn.bench.measure import measure, measure_machine
    from gpuknn.bench.peers import installed_peers
    from gpuknn.cli.rates import CPU, keep_rates
    from gpuknn.engine.check import check_content, check_question
    from gpuknn.engine.choose import usable_cores
    from gpuknn.engine.cpu.device import CpuDevice
    from gpuknn.engine.metric import Metric

    metric = Metric(chosen.metric)
    try:
        ks = [int(k) for k in chosen.k.split(",")]
    except ValueError as error:
        raise InputError(f"-k {chosen.k}: expected numbers separated by commas, as in 10,100") from error
    for name in ("rows", "queries", "components", "threads", "repeat"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    peers = installed_peers(chosen.peers)
    if chosen.plot:
        _check_plot(chosen.plot)
    rows, queries = _data(chosen, metric)
    n = min(chosen.rows or len(rows), len(rows))
    for k in ks:
        check_question(rows, queries, k, chosen.metric, "float32")
    threads = min(chosen.threads or usable_cores(), usable_cores())
    check_content(rows, queries, metric, "float32", threads)

    asked = queries[: chosen.queries]
    device = CpuDevice(threads, chosen.filter)
    machine = measure_machine(rows, asked[: min(len(asked), 1000)], metric, threads)
    measure(rows, asked[:64], metric, min(10, n), min(n, 20_000), device, 1)  # kernels are compiled once, before all
    if not chosen.json:
        sys.stdout.write(f"{_describe(machine, rows.nbytes // len(rows))}\n{len(asked):,} queries, {chosen.metric}\n\n")
    sizes = [n >> i for i in range(GROWTH)][::-1] if chosen.plot else [n]
    found = []
    for size in sizes:
        for k in ks:
            if k <= size:
                found.append(measure(rows, asked, metric, k, size, device, chosen.repeat, peers if size == n else ()))
                if not chosen.json:
                    sys.stdout.write(_line(found[-1], header=len(found) == 1) + "\n")
                    sys.stdout.flush()
    middle = found[len(found) // 2]
    if metric is not Metric.HAMMING and middle.engine > LONG_ENOUGH:
        operations = 2.0 * middle.rows * len(asked) * rows.shape[1]
        keep_rates(CPU, product=operations / middle.engine / threads)
    if chosen.plot:
        _plot(chosen.plot, found, np.asarray(ks))
    if chosen.json:
        result = {"machine": asdict(machine), "queries": len(asked), "metric": chosen.metric}
        sys.stdout.write(json.dumps(result | {"measurements": [asdict(m) for m in found]}) + "\n")
    return 0


def _data(chosen: argparse.Namespace, metric: Any) -> tuple[Any, Any]:
    """The files' vectors, or random ones."""
    import numpy as np

    from gpuknn.engine.metric import Metric
    from gpuknn.jobs.exact.job import refuse_rows_as_queries
    from gpuknn.storage.location import split_key
    from gpuknn.vectors import ArrayVectors, open_vectors

    if chosen.database:
        if not chosen.queries_file:
            raise InputError("name a file of queries, too")
        files = chosen.database, chosen.queries_file
        found, sought = (open_vectors(file, missing=chosen.missing) for file in files)
        refuse_rows_as_queries(found, sought, split_key(chosen.queries_file)[1] is not None)
        return found, sought
    rng = np.random.default_rng(0)
    n, nq, d = chosen.rows or 200_000, chosen.queries or 4_000, chosen.components
    if metric is Metric.HAMMING:
        rows, queries = (rng.integers(0, 2**64, (m, max(1, d // 64)), dtype=np.uint64) for m in (n, nq))
        return ArrayVectors.of(rows, "random rows"), ArrayVectors.of(queries, "random queries")
    halves = np.empty((n, d), np.float16)
    for first in range(0, n, 2**14):
        halves[first : first + 2**14] = rng.standard_normal((min(2**14, n - first), d), np.float32)
    return ArrayVectors.of(halves, "random rows"), ArrayVectors.of(
        rng.standard_normal((nq, d), np.float32), "random queries"
    )


def _describe(machine: "Machine", row_bytes: int) -> str:
    product = f"product {machine.product / 1e9:,.0f} GFLOP/s, " if machine.product else ""
    rows = machine.reading / row_bytes
    return (
        f"{machine.processor}, {machine.threads} threads, {machine.blas}\n"
        f"{product}reading {machine.reading / 1e9:.1f} GB/s ({rows:,.0f} rows/s)"
    )


def _line(found: "Measurement", header: bool) -> str:
    """One measurement: seconds, and ratios to the engine's."""
    against = {"product": found.product} | found.peers
    times = [f"{found.rows:>11,}", f"{found.k:>6,}", f"{found.engine:>9.2f}"]
    heads = [f"{'rows':>11}", f"{'k':>6}", f"{'engine s':>9}"]
    for name, seconds in against.items():
        if seconds:
            heads.append(f"{name + ' s':>10} {'ratio':>6}")
            times.append(f"{seconds:>10.2f} {found.engine / seconds:>6.3f}")
    shares = ", ".join(f"{name} {spent / found.engine:.0%}" for name, spent in found.stages.items())
    line = " ".join(times) + f"   {shares}"
    return " ".join(heads) + "   where the engine's time goes\n" + line if header else line


def _check_plot(path: Path) -> None:
    from importlib.util import find_spec

    if not find_spec("matplotlib"):
        raise InputError(f"--plot: needs matplotlib; install it with: {pip_install('bench')}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: there is no such folder to write {path.name} to")


def _plot(path: Path, found: "list[Measurement]", ks: Any) -> None:
    """Seconds over rows, a line for each k, and the bare product's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for k in ks:
        points = [(m.rows, m.engine) for m in found if m.k == k]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"k = {k}")
    points = sorted({(m.rows, m.product) for m in found if m.k == ks[0] and m.product})
    if points:
        axes.plot(*zip(*points, strict=True), linestyle="--", color="grey", label="bare product")
    axes.set(xlabel="rows", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.legend()
    figure.savefig(path)
