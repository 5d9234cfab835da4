"""`gpuknn bench`: what this machine can do, and what of it the engine uses."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuknn.cli.options import DEFAULT_METRIC, add_metric, add_missing
from gpuknn.cli.plot import check_plot, save_plot
from gpuknn.errors import InputError

if TYPE_CHECKING:
    from gpuknn.bench.measure import Machine, Measurement
    from gpuknn.vectors import Vectors

EXAMPLES = """examples:
  gpuknn bench --rows 20000 --queries 1000
  gpuknn bench database.h5 queries.h5 -k 100 --peers faiss
"""
GROWTH = 5
"""Sizes that --plot measures, each twice the one before."""
DESCRIPTION = f"{__doc__}\n\nBare product, engine and other libraries take turns; the least counts."
HELP = "measure this machine and the engine"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("database", nargs="?", help="HDF5, .npy or Zarr (default: random rows)")
    parser.add_argument("queries_file", nargs="?", metavar="queries")
    add_missing(parser)
    of_rows = "rows to search (default: all of the file, or 200000; for a GPU, up to 1000000)"
    parser.add_argument("--rows", type=int, metavar="N", help=of_rows)
    parser.add_argument("--queries", type=int, metavar="N", help="queries (default: all of the file, or 4000)")
    parser.add_argument("--components", type=int, default=768, metavar="D", help="of random rows (default: 768)")
    add_metric(parser)
    parser.add_argument("-k", default="10,100,1000", metavar="K[,K...]", help="neighbours (default: %(default)s)")
    of_device = "what to measure (default: auto, a GPU if there is one)"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=of_device)
    parser.add_argument("--threads", type=int, metavar="N", help="the processor's cores to use (default: all)")
    of_filter = "of the engine, on a processor (default: auto)"
    parser.add_argument("--filter", choices=("auto", "float32", "int8"), default="auto", help=of_filter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument(
        "--peers", metavar="NAME,...", help="faiss, sklearn, usearch, or '' (default: the installed; beside a GPU none)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also measure fewer rows and draw time over rows")
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def run(chosen: argparse.Namespace) -> int:
    """Make or open the data, measure, show."""
    import numpy as np

    from gpuknn.bench.measure import measure, measure_machine, random_vectors
    from gpuknn.bench.peers import installed_peers
    from gpuknn.engine.check import check_content, check_question
    from gpuknn.engine.choose import open_device, usable_cores
    from gpuknn.engine.cpu.device import CpuDevice
    from gpuknn.engine.cpu.needed import compile_kernels
    from gpuknn.engine.device import Search
    from gpuknn.engine.metric import metric_named
    from gpuknn.engine.rows import under
    from gpuknn.progress import bar

    metric = metric_named(chosen.metric or DEFAULT_METRIC)
    try:
        ks = [int(k) for k in chosen.k.split(",")]
    except ValueError as error:
        raise InputError(f"-k {chosen.k}: expected numbers separated by commas, as in 10,100") from error
    for name in ("rows", "queries", "components", "threads", "repeat"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    threads = min(chosen.threads or usable_cores(), usable_cores())
    device = open_device(chosen.device, threads)
    if device.kind == "cpu":
        device = CpuDevice(threads, chosen.filter)
    elif chosen.filter != "auto":
        raise InputError(f"--filter {chosen.filter}: is for --device cpu; a GPU chooses by itself")
    peers = installed_peers(chosen.peers if device.kind == "cpu" else chosen.peers or "")
    if chosen.plot:
        check_plot(chosen.plot)
    if chosen.database:
        rows, queries = (under(metric, each) for each in _open(chosen))
    else:
        rows, queries = random_vectors(device, metric, chosen.rows, chosen.queries or 4000, chosen.components)
    n = min(chosen.rows or len(rows), len(rows))
    for k in ks:
        check_question(rows, queries, k, metric, "float32")
    with bar(disable=chosen.json) as told:
        compile_kernels([each for k in ks for each in device.kernels(metric, rows, queries, k)], told)
    check_content(rows, queries, metric, "float32", threads)

    asked = queries[: chosen.queries]
    machine = measure_machine(rows, asked, device)
    if not chosen.json:
        sys.stdout.write(f"{_describe(machine, rows.nbytes // len(rows))}\n{len(asked):,} queries, {metric}\n\n")
    sizes = [n >> i for i in range(GROWTH)][::-1] if chosen.plot else [n]
    searches = [Search(asked, k, metric, np.dtype(np.float32)) for k in ks]
    found: list[Measurement] = []
    for measured in measure(rows, searches, sizes, device, chosen.repeat, peers):
        found.append(measured)
        if not chosen.json:
            sys.stdout.write(_line(measured, header=len(found) == 1) + "\n")
            sys.stdout.flush()
    if chosen.plot:
        _plot(chosen.plot, found, ks)
    if chosen.json:
        result = {"machine": asdict(machine), "queries": len(asked), "metric": metric.value}
        sys.stdout.write(json.dumps(result | {"measurements": [asdict(m) for m in found]}) + "\n")
    return 0


def _open(chosen: argparse.Namespace) -> "list[Vectors]":
    """The files' rows and queries."""
    from gpuknn.jobs.exact.job import refuse_rows_as_queries
    from gpuknn.storage.location import split_key
    from gpuknn.vectors import open_vectors

    if not chosen.queries_file:
        raise InputError("name a file of queries, too")
    found, sought = (open_vectors(file, missing=chosen.missing) for file in (chosen.database, chosen.queries_file))
    refuse_rows_as_queries(found, sought, split_key(chosen.queries_file)[1] is not None)
    return [found, sought]


def _describe(machine: "Machine", row_bytes: int) -> str:
    """Lines on the machine and its rates."""
    from gpuknn.bench.rate import si

    product = f"product {si(machine.product, 'FLOP/s')}, " if machine.product else ""
    reading = f"reading {si(machine.reading, 'B/s')} ({machine.reading / row_bytes:,.0f} rows/s)"
    stages = [f"{rate.name}: {si(rate.value, rate.unit)} ({rate.said})" for rate in machine.rates]
    return "\n".join([f"{machine.processor}, {machine.device}, {machine.blas}", product + reading, *stages])


def _line(found: "Measurement", header: bool) -> str:
    """One measurement: seconds, and ratios to the engine's."""
    head = f"{'rows':>11} {'k':>6} {'engine s':>9}"
    line = f"{found.rows:>11,} {found.k:>6,} {found.engine:>9.3g}"
    for name, seconds in ({"product": found.product} | found.peers).items():
        if seconds:
            head += f" {name + ' s':>10} {'ratio':>6}"
            line += f" {seconds:>10.3g} {found.engine / seconds:>6.3f}"
    if found.stages:
        head += "   where the engine's time goes"
        line += "   " + ", ".join(f"{name} {spent / found.engine:.0%}" for name, spent in found.stages.items())
    return f"{head}\n{line}" if header else line


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
    save_plot(figure, path)
