"""Which kernels a search or a projection needs, and that they are compiled before: the first time takes seconds."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpuknn.engine.cpu import kernels
from gpuknn.engine.cpu.int8 import int8_product
from gpuknn.engine.cpu.kernels.kernel import Kernel
from gpuknn.engine.metric import Metric
from gpuknn.interrupts import interrupts_between
from gpuknn.progress import Listener, step


class Needed(NamedTuple):
    """A kernel, and the type of rows that it is needed for; None if it takes no rows."""

    kernel: Kernel
    rows: np.dtype | None = None


def for_check(metric: Metric, rows: np.dtype, queries: np.dtype) -> list[Needed]:
    """What `check.check_content` calls."""
    if metric is Metric.HAMMING:
        return []
    return [Needed(kernels.squared_norms, dtype) for dtype in dict.fromkeys((rows, queries))]


def for_search(metric: Metric, rows: np.dtype, queries: np.dtype, int8: bool) -> list[Needed]:
    """What a search on the processor calls; `int8`: also with that filter."""
    of_all = [Needed(kernels.select), Needed(kernels.cut), Needed(kernels.keep)]
    if metric is Metric.HAMMING:
        return [Needed(kernels.hamming_scores), *of_all]
    found = for_check(metric, rows, queries) + of_all + [Needed(kernels.widen, rows), Needed(kernels.measure, rows)]
    if int8:
        again = rows if rows == np.float16 else np.dtype(np.float32)
        found += [Needed(kernels.quantise), Needed(kernels.select_coarse, again)]
    return found


def for_merge(dists: np.dtype) -> list[Needed]:
    """What `neighbors.merge` calls."""
    return [Needed(kernels.merge_two, dists)]


def for_axes(rows: np.dtype) -> list[Needed]:
    """What PCA of such rows calls: to be fitted, and to be applied."""
    unit = kernels.unit_halves if rows == np.float16 else kernels.unit_rows
    return [Needed(kernels.squared_norms, rows), Needed(unit, rows), Needed(kernels.turn_pairs)]


def for_sketches(rows: np.dtype) -> list[Needed]:
    """What sketches of such rows call."""
    return [Needed(kernel, rows) for kernel in (kernels.squared_norms, kernels.widen, kernels.compare_references)]


def for_everything() -> list[Needed]:
    """What any search on this machine calls, and projections."""
    found, int8 = [], int8_product() is not None
    for rows in map(np.dtype, Metric.COSINE.dtypes):
        found += for_axes(rows) + for_sketches(rows)
    for metric in Metric:
        for rows, queries in product(map(np.dtype, metric.dtypes), repeat=2):
            found += for_search(metric, rows, queries, int8)
    for dists in ("float32", "float64"):
        found += for_merge(np.dtype(dists))
    return list(dict.fromkeys(found))


def compile_kernels(needed: Iterable[Needed], told: Listener) -> int:
    """Compile what is not compiled yet, if anything, and tell the step; returns how many kernels that were.

    step        compiling
    compiled    kernels: that are done
    said        line: for a person, if the kernels cannot be kept for the next process
    """
    missing = [each for each in dict.fromkeys(needed) if not each.kernel.is_compiled(each.rows)]
    if not missing:
        return 0
    told(step("compiling", len(missing), "compiled", "kernels", title=COMPILING))
    with interrupts_between(told) as heard:  # amid one kernel they would be raised in LLVM's callbacks
        for done, each in enumerate(missing, start=1):
            each.kernel.compiled(each.rows)
            heard({"event": "compiled", "kernels": done})
    if not all(each.kernel.kept(each.rows)[1] for each in missing):
        told({"event": "said", "line": NOT_KEPT})
    return len(missing)


COMPILING = "compiling kernels (once on this machine)"
NOT_KEPT = (
    "kernels cannot be kept, so each process compiles them anew; "
    "set NUMBA_CACHE_DIR to a folder that has room and can be written to"
)


def kept(needed: Iterable[Needed]) -> tuple[Path | None, int]:
    """The folder in which compiled kernels are kept, None if there is none, and their bytes there."""
    places = [each.kernel.kept(each.rows) for each in needed]
    return places[0][0], sum(size for _, size in places)
