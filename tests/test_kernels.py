"""Kernels: which of them a search calls, and that these are compiled ahead."""

from pathlib import Path

import numpy as np
import pytest

import gpuknn
import gpuknn.engine.cpu.kernels
from gpuknn.cli.main import main
from gpuknn.engine.cpu import device as cpu
from gpuknn.engine.cpu import needed
from gpuknn.engine.cpu.kernels.kernel import Kernel
from gpuknn.engine.cpu.needed import Needed
from gpuknn.engine.metric import Metric
from gpuknn.engine.neighbors import Neighbors, merge
from tests.conftest import some_int8_product

PAIRS = [
    (metric, rows, queries)
    for metric in Metric
    for rows, queries in zip(metric.dtypes, metric.dtypes[1:] + metric.dtypes[:1], strict=True)
]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[Needed]:
    """The kernels that are called from now on."""
    called: set[Needed] = set()
    compiled = Kernel.compiled

    def seen(kernel: Kernel, rows: np.dtype | None) -> object:
        called.add(Needed(kernel, rows))
        return compiled(kernel, rows)

    monkeypatch.setattr(Kernel, "compiled", seen)
    return called


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[Needed]:
    """Those that are to be compiled ahead; none is."""
    found: list[Needed] = []
    monkeypatch.setattr(needed, "compile_kernels", lambda kernels, _: found.extend(kernels))
    return found


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("metric", "rows", "queries"), PAIRS)
def test_a_search_calls_what_is_compiled_ahead(
    metric: Metric,
    rows: str,
    queries: str,
    int8: bool,
    used: set[Needed],
    announced: list[Needed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "int8_product", some_int8_product if int8 else lambda: None)
    monkeypatch.setattr(cpu, "EPOCH_VALUES", 2**15)
    rng = np.random.default_rng(0)
    database, asked = rng.integers(1, 9, (1100, 64)).astype(rows), rng.integers(1, 9, (64, 64)).astype(queries)
    found = gpuknn.exact_knn(database, asked, k=3, metric=metric, device="cpu", threads=1)
    assert used == set(announced)
    assert used <= set(needed.for_everything()) or int8
    merge([Neighbors(found.ids, found.dists)] * 2, 3)
    assert used == set(announced) | set(needed.for_merge(np.dtype("float32")))


@pytest.mark.parametrize("shard_rows", [300, 100])
def test_a_job_calls_what_is_compiled_ahead(
    shard_rows: int, used: set[Needed], announced: list[Needed], tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    gpuknn.exact(tmp_path / "rows.npy", None, tmp_path / "gold.h5", k=3, device="cpu", threads=1, shard_rows=shard_rows)
    assert used <= set(announced)  # workers may be other processes
    assert Needed(gpuknn.engine.cpu.kernels.merge_two, np.dtype("float32")) in announced, "it may be wanted next time"


def test_everything_is_every_kernel_for_every_type() -> None:
    known = {vars(gpuknn.engine.cpu.kernels)[name] for name in gpuknn.engine.cpu.kernels.__all__}
    kernels = {kernel for kernel in known if isinstance(kernel, Kernel)}
    int8 = {kernel for kernel in kernels if repr(kernel) in ("<kernel quantise>", "<kernel select_coarse>")}
    everything = needed.for_everything()
    assert kernels - {each.kernel for each in everything} in (set(), int8)
    assert len(everything) == len(set(everything))
    assert [each.rows.name for each in everything if each.rows and "measure" in repr(each.kernel)] == [
        *Metric.L2.dtypes
    ]


def test_the_cache_can_be_filled_ahead(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = [Needed(gpuknn.engine.cpu.kernels.widen, np.dtype("float16"))]
    monkeypatch.setattr("gpuknn.doctor.compile.for_everything", lambda: some)
    assert main(["doctor", "--compile"]) == 0
    assert capsys.readouterr().out.startswith("1 kernels, ")
    assert main(["doctor", "--compile", "--json"]) == 0
    said = capsys.readouterr().out
    assert '"compiled": 0' in said
    assert '"folder": "' in said
    assert main(["doctor", "--compile", "--report", "."]) == 2
    assert "leave out --report" in capsys.readouterr().err
