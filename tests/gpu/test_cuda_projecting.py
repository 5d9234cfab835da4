"""Rows in hand of a GPU become what they become in hand of the processor, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuknn
from gpuknn.engine.cpu.device import CpuDevice
from gpuknn.engine.projecting import GRID, Axes, References
from tests.gpu.support import ROW_TYPES, cuda, random_rows
from tests.project.rules import bits_by_rule


def rows_of_all_lengths(rng: np.random.Generator, n: int, d: int, dtype: str) -> np.ndarray:
    rows = random_rows(rng, n, d, dtype)
    if rows.dtype.kind == "f":
        rows[::3] *= rows.dtype.type(2**-11)
        rows[1::3] *= rows.dtype.type(2**5)
    return rows


@pytest.mark.parametrize("dtype", ROW_TYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (37, 20), (5, 300)])
def test_blocks(rng: np.random.Generator, dtype: str, n: int, d: int) -> None:
    rows = rows_of_all_lengths(rng, n, d, dtype)
    turned = np.linalg.qr(rng.standard_normal((d, d)))[0][: min(d, 7)]
    axes = Axes(np.rint(turned * 2.0**28) / 2.0**28, rng.standard_normal(len(turned)))
    vectors = rng.standard_normal((128, d)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    vectors[1] = vectors[0]
    shift = np.rint(rng.uniform(-1, 1, d) * GRID) / GRID
    found = []
    for device in (CpuDevice(1), cuda.open_cuda()):
        with device.blocks() as taking, taking(rows, lambda norms: None) as block:
            sketches = [block.sketches(References(vectors, single)) for single in (False, True)]
            moments = block.moments(shift)
            sums = [np.sum([part[i] for part in moments], axis=0) for i in (0, 1)]
            found.append((block.coordinates(axes), *sketches, *sums))
    for cpu, gpu in zip(*found, strict=True):
        assert cpu.dtype == gpu.dtype
        assert np.array_equal(cpu, gpu)
    assert np.array_equal(found[1][1], bits_by_rule(rows, vectors))


@pytest.mark.parametrize("wanted", [{"pca": 5}, {"hamming": 128}])
def test_files(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", rows_of_all_lengths(rng, 500, 20, "float16"))
    for values in ("projected.COORDINATES_VALUES", "pca.MOMENTS_VALUES"):
        monkeypatch.setattr(f"gpuknn.projections.{values}", 1_000)
    for device in ("cpu", "cuda"):
        fitted = gpuknn.project_fit("rows.npy", f"{device}.h5", **wanted, device=device)
        gpuknn.project_apply(fitted.output, "rows.npy", f"{device}-rows.npy", device=device)
    assert Path("cpu.h5").read_bytes() == Path("cuda.h5").read_bytes()
    assert Path("cpu-rows.npy").read_bytes() == Path("cuda-rows.npy").read_bytes()
