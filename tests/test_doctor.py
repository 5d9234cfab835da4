"""`gpuknn doctor` on a machine without a GPU; tests/gpu/test_doctor_gpu.py has the rest."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuknn.bench.reading import try_disk
from gpuknn.cli.main import main
from gpuknn.doctor import examine, gpus, selftest
from gpuknn.doctor.gpus import Gpu, Gpus, choose_device
from gpuknn.doctor.machine import memory_limit
from gpuknn.engine.cpu.device import CpuScan
from gpuknn.engine.neighbors import Neighbors
from gpuknn.errors import InputError, RunError
from tests import oracle

KINDS = selftest.KINDS
without_cupy = pytest.mark.skipif(find_spec("cupy") is not None, reason="for machines without CuPy")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bytes, smaller searches."""
    monkeypatch.setattr(selftest, "KINDS", ("tied",))
    monkeypatch.setattr(examine, "DISK_BYTES", {False: 2**22, True: 2**22})
    monkeypatch.setattr(examine, "QUICK", selftest.Size(200, 4, 20, (10,)))
    monkeypatch.setattr(examine, "FULL", selftest.Size(200, 4, 20, (10,)))


@pytest.fixture
def no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what else the doctor says."""
    monkeypatch.setattr(examine, "check_answers", lambda *_: [])


def doctor(*options: object) -> int:
    return main(["doctor", "--device", "cpu", *map(str, options)])


def test_a_table_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert doctor("--data-dir", tmp_path) == 0
    shown = capsys.readouterr().out
    for said in (
        "openblas",
        "OPENBLAS_CORETYPE=Haswell is set: it slows",
        "GFLOP/s",
        "B/s, ",
        "hamming uint64",
        "all right: 7",
    ):
        assert said in shown
    assert list(tmp_path.iterdir()) == []


def test_an_object_for_programs_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("--full", "--json", "--data-dir", tmp_path, "--report", tmp_path) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    assert [check["name"] for check in told["checks"]] == [f"{metric} {dtype}" for metric, dtype in selftest.ALL]
    assert len(told["checks"]) == 16
    assert any("no GPU was examined" in note for note in told["notes"])
    assert (told["sums"], told["rates"], told["resident"]) == ({}, [], [])
    assert told["machine"]["packages"]["numpy"] == np.__version__
    assert told["machine"]["product"] > 1e8
    assert told["machine"]["disk"]["read"] > 1e6
    page, kept = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert json.loads(kept.read_text()) == told
    assert page.name.startswith(told["machine"]["host"])
    assert "| yes | ip int8 |" in page.read_text()


def shifted(self: CpuScan) -> tuple[Neighbors, Any]:
    found, certificate = result(self)
    return replace(found, ids=np.roll(found.ids, 1, axis=1)), certificate


def refused(self: CpuScan) -> tuple[Neighbors, Any]:
    raise RunError("the product is wrong")


result = CpuScan.result


@pytest.mark.parametrize(
    ("sabotaged", "said"), [(shifted, "entries are wrong, first query 0, rank"), (refused, "RunError")]
)
def test_wrong_answers_are_exit_code_1(
    sabotaged: Any, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuScan, "result", sabotaged)
    assert doctor() == 1
    shown = capsys.readouterr().out
    assert "NO  cosine float16" in shown
    assert said in shown
    assert "NOT WELL: 7 of 7 checks said no" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data-dir", "nowhere"], "--data-dir nowhere: there is no such folder"),
        (["--report", "nowhere"], "--report nowhere: there is no such folder"),
        (["--gpu", "0"], "does not go with --device cpu"),
        (["--device", "cuda", "--gpu", "-1"], "--gpu -1: this machine has"),
        pytest.param(
            ["--device", "cuda"], "install it, for a driver of CUDA 12: pip install 'cupy-cuda12x[", marks=without_cupy
        ),
        pytest.param(["--device", "auto", "--gpu", "0"], "CuPy is not installed", marks=without_cupy),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(*options) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@without_cupy
@pytest.mark.usefixtures("no_answers")
@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("580.65.06", "install CuPy with: pip install 'cupy-cuda13x["),
        ("570.133.20", "install CuPy with: pip install 'cupy-cuda12x["),
        ("470.1", "install a driver of at least 525"),
    ],
)
def test_gpus_that_are_not_used_are_told_what_is_missing(
    driver: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Gpus([Gpu("NVIDIA H100", 80 * 2**30)], driver, "nvidia-smi", {})
    monkeypatch.setattr(examine, "find_gpus", lambda: found)
    assert doctor("--device", "auto") == 0
    shown = capsys.readouterr().out
    assert f"the GPUs are not used: {extra}" in shown
    assert "NVIDIA H100, 80.0 GiB" in shown


@without_cupy
@pytest.mark.usefixtures("no_answers")
def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Gpus([], None, "", {})
    monkeypatch.setattr(examine, "find_gpus", lambda: nothing)
    assert doctor("--device", "auto") == 0
    assert "no NVIDIA GPU or driver was found" in capsys.readouterr().out
    with pytest.raises(InputError, match="this machine has 0"):
        choose_device("auto", 1, nothing)


def test_what_nvidia_smi_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A100-SXM4, 40960, 570.1'\necho 'NVIDIA A100-SXM4, 40960, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus._by_nvidia_smi() == ([Gpu("NVIDIA A100-SXM4", 40 * 2**30)] * 2, "570.1")
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert gpus._by_nvidia_smi() == ([], None)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    disk = try_disk(tmp_path / "gone", 2**22)
    assert disk.read is None
    assert disk.said.startswith("not measured")


def test_limits_are_numbers_or_none() -> None:
    limit = memory_limit()
    assert limit is None or limit > 0


@pytest.mark.parametrize(("metric", "dtype"), selftest.QUICK)
def test_the_plain_definition_is_the_oracle(metric: str, dtype: str) -> None:
    for kind in KINDS:
        rows, queries = selftest.make_data(kind, dtype, 60, 5, 40, seed=0)
        assert (rows.shape, rows.dtype) == ((60, 40), np.dtype(dtype))
        for dists in ("float32", "float64"):
            expected = oracle.knn(rows, queries, 7, metric, dists)
            ids, found = selftest.nearest(selftest.distances(rows, queries, metric), 7, dists)
            assert np.array_equal(ids, expected[0])
            assert np.array_equal(found, expected[1])


def test_help_is_quick_and_shows_an_example() -> None:
    program = (
        "import sys; from gpuknn.cli.main import main\n"
        "try: main(['doctor', '--help'])\nfinally: assert 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gpuknn doctor --full" in done.stdout
