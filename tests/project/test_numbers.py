"""What a device does with a block of rows, against plain rules, and against exact numbers."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuknn.engine.cpu import kernels
from gpuknn.engine.cpu.block import CpuBlock
from gpuknn.engine.cpu.kernels import projections
from gpuknn.engine.metric import FLOAT_TYPES, summation_leaves
from gpuknn.engine.projecting import GRID, MOST, PLAIN, Axes, References
from gpuknn.projections import moments
from gpuknn.projections.moments import ExactSums, partial_bytes
from tests.project.models import unit_rows
from tests.project.rules import bits_by_rule, unit_by_rule

WIDTHS = (1, 7, 8, 9, 64, 200, 769)


def random_rows(dtype: str, n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, d])
    if dtype.endswith("int8"):
        return rng.integers(1, 100, (n, d)).astype(dtype)
    return rng.standard_normal((n, d)).astype(dtype)


def block(rows: np.ndarray) -> CpuBlock:
    return CpuBlock(rows, lambda norms: None)


def with_all_lengths(rows: np.ndarray) -> np.ndarray:
    """Rows of which float16 holds squares, or not, or only just; some components subnormal."""
    one = rows.dtype.type
    return np.concatenate([rows * one(2.0**power) for power in (-20, -14, -9, -6, -3, 0, 2, 4, 8, 11)])


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_unit_rows(dtype: str, d: int) -> None:
    rows = random_rows(dtype, 20, d)
    if dtype == "float16":
        rows = with_all_lengths(rows)
        rows = rows[np.any(rows != 0, axis=1)]
    found = block(rows).unit()
    assert np.array_equal(found, unit_by_rule(rows))
    assert np.array_equal(found, np.rint(found * GRID) / GRID)
    assert np.abs(found).max() < 1.01
    assert np.linalg.norm(found, axis=1).max() < 1.75
    lengths = np.linalg.norm(found, axis=1)
    assert np.abs(lengths - 1).max() < (0.3 if dtype == "float16" else 1e-6)  # of one subnormal component


def near_64(d: int) -> np.ndarray:
    """Rows of which the sums of rounded squares are some 2^-17 around 64: one float32 sum cannot tell on which side."""
    rng = np.random.default_rng(d)
    rows = (rng.standard_normal((60, d)) * (8 / d**0.5)).astype(np.float16)
    for row in rows:
        for i in rng.permutation(d):
            off = 64 - np.square(row).sum(dtype=np.float64)
            if abs(off) < 2.0**-16:
                break
            square = float(row[i]) ** 2 + off
            row[i] = np.sqrt(square) if 0 < square < 4 else row[i] * np.float16(1 + np.sign(off) / 64)
    return rows


@pytest.mark.parametrize("d", [768, 8192])
def test_rows_of_which_float16_only_just_holds_squares(d: int) -> None:
    rows = near_64(d)
    sums = np.square(rows).sum(axis=1, dtype=np.float64)
    assert 10 < np.count_nonzero(sums < 64) < 50
    assert np.count_nonzero(np.abs(sums - 64) < 2.0**-14) > 30
    assert np.array_equal(block(rows).unit(), unit_by_rule(rows))


def test_unit_rows_are_those_of_julia() -> None:
    """NumPy's float16 rounds after each operation, as Julia's does."""
    rows = random_rows("float16", 500, 768) / np.float16(28)
    lengths = np.sqrt(np.square(rows).sum(axis=1, dtype=np.float64)).astype(np.float16)
    found = rows * (1 / lengths)[:, None]
    assert found.dtype == np.float16
    assert np.array_equal(block(rows).unit(), found.astype(np.float64))


ARITHMETIC = """
import numpy as np
from tests.project.test_numbers import random_rows, with_all_lengths, block, WIDTHS
from tests.project.rules import unit_by_rule
import gpuknn.engine.cpu.kernels.projections as projections
assert "double" in str(projections.ONE)
for d in WIDTHS:
    rows = with_all_lengths(random_rows("float16", 20, d))
    rows = rows[np.any(rows != 0, axis=1)]
    assert np.array_equal(block(rows).unit(), unit_by_rule(rows)), d
"""


def test_unit_rows_on_a_processor_that_knows_no_float16(tmp_path: Path) -> None:
    variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    variables |= {"NUMBA_CPU_NAME": "generic"}
    done = subprocess.run([sys.executable, "-c", ARITHMETIC], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def exact_moments(rows: np.ndarray, shift: np.ndarray) -> tuple[list[Fraction], list[list[Fraction]]]:
    centred = [[Fraction(x) - Fraction(s) for x, s in zip(row, shift, strict=True)] for row in unit_by_rule(rows)]
    d = len(shift)
    sums = [sum((row[i] for row in centred), Fraction(0)) for i in range(d)]
    return sums, [[sum((row[i] * row[j] for row in centred), Fraction(0)) for j in range(d)] for i in range(d)]


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("far", [False, True])
def test_moments_are_exact(dtype: str, far: bool) -> None:
    """Also if the rows are so far from the shift that one product would round."""
    rows, d = random_rows(dtype, 61, 5), 5
    shift = np.rint(np.linspace(-1, 1, d) * (1 if far else 0.1) * GRID) / GRID
    parts = block(rows).moments(shift)
    sums, products = exact_moments(rows, shift)
    assert [sum(Fraction(part[0][i]) for part in parts) for i in range(d)] == sums
    assert [[sum(Fraction(part[1][i, j]) for part in parts) for j in range(d)] for i in range(d)] == products
    assert (len(parts) > 1) == (max(products[i][i] for i in range(d)) >= MOST)


def test_sums_do_not_depend_on_cuts_or_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "FLUSH_EVERY", 3)
    rows = random_rows("float16", 90, 4)
    found = []
    for seed, cut in ((0, 90), (1, 7), (2, 1)):
        shift = np.rint(np.random.default_rng(seed).uniform(-1, 1, 4) * GRID) / GRID
        halves = [ExactSums.none(shift), ExactSums.none(shift)]
        for first in range(0, 90, cut):
            some = block(rows[first : first + cut])
            halves[first % 2].add(len(some.rows), some.moments(shift))
        for number, half in enumerate(halves):
            half.write(tmp_path / f"{number}.bin")
            assert (tmp_path / f"{number}.bin").stat().st_size == partial_bytes(4)
        both = ExactSums.none(shift)
        for number in (1, 0):
            both.merge(ExactSums.read(tmp_path / f"{number}.bin", shift))
        found.append((both.mean().tobytes(), both.covariance().tobytes()))
    assert len(set(found)) == 1
    unit = unit_by_rule(rows)
    mean = [sum((Fraction(x) for x in column), Fraction(0)) / 90 for column in unit.T]
    assert np.frombuffer(found[0][0]).tolist() == [float(x) for x in mean]
    covariance = np.frombuffer(found[0][1]).reshape(4, 4)
    exact = sum((Fraction(x) - mean[0]) * (Fraction(y) - mean[3]) for x, y in zip(unit[:, 0], unit[:, 3], strict=True))
    assert covariance[0, 3] == float(exact / 89)
    assert np.abs(covariance - np.cov(unit.T)).max() < 1e-15


def test_sums_that_do_not_fit_the_shift_are_refused(tmp_path: Path) -> None:
    ExactSums.none(np.zeros(4)).write(tmp_path / "x.bin")
    with pytest.raises(ValueError, match="holds sums of other rows"):
        ExactSums.read(tmp_path / "x.bin", np.zeros(5))


@pytest.mark.parametrize("least", [1, 0.1, 1e-4])
@pytest.mark.parametrize("d", [1, 2, 3, 50, 130])
def test_eigenvectors(d: int, least: float) -> None:
    rng = np.random.default_rng(d)
    rows = rng.standard_normal((4 * d, d)) * np.geomspace(1, least, d)
    covariance = rows.T @ rows / (4 * d)
    values, vectors = np.linalg.eigh(covariance)
    turned, sweeps = covariance.copy(), 1
    while kernels.turn_pairs(turned, summation_leaves(d)):
        sweeps += 1
    assert sweeps < 15
    lengths = np.linalg.norm(turned, axis=1)
    order = np.argsort(lengths)
    assert np.abs(lengths[order] - values).max() < 1e-13 * values.max()
    along = np.abs((turned[order] / lengths[order, None] * vectors.T).sum(axis=1))
    assert np.allclose(along[values > 1e-3 * values.max()], 1, rtol=1e-9)


def test_equal_eigenvalues_and_none() -> None:
    """Any directions are right; they must still be of unit length and at right angles."""
    turned = np.diag([2.0, 2.0, 2.0, 0.0, 0.0])
    turned[:2, :2] = [[1.5, 0.5], [0.5, 1.5]]
    while kernels.turn_pairs(turned, summation_leaves(5)):
        pass
    assert sorted(np.linalg.norm(turned, axis=1).round(12)) == [0, 0, 1, 2, 2]
    assert np.allclose(np.triu(turned @ turned.T, 1), 0, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_coordinates_are_rounded_once(dtype: str) -> None:
    rng = np.random.default_rng(1)
    rows = random_rows(dtype, 30, 20)
    turned = np.linalg.qr(rng.standard_normal((20, 20)))[0][:6]
    axes = Axes(np.rint(turned * 2.0**28) / 2.0**28, rng.standard_normal(6))
    found = block(rows).coordinates(axes)
    unit = unit_by_rule(rows)
    for i, j in ((0, 0), (7, 3), (29, 5)):
        exact = sum(Fraction(x) * Fraction(c) for x, c in zip(unit[i], axes.components[j], strict=True))
        assert float(exact) == exact
        assert found[i, j] == np.float32(float(exact) - axes.offset[j])


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_sketches(dtype: str, single: bool) -> None:
    rows = random_rows(dtype, 100, 30)
    references = unit_rows(np.random.default_rng(2), 192, 30)
    found = block(rows).sketches(References(references, single))
    assert np.array_equal(found, bits_by_rule(rows, references, single))
    assert 0.4 < np.bitwise_count(found).mean() / 64 < 0.6


def near_ties(d: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and references that are a rounding apart: float32 products cannot tell which is nearer."""
    rng = np.random.default_rng(3)
    base = unit_rows(rng, 1, d)
    references = np.repeat(base, 64, axis=0)
    for i in range(64):
        for j in rng.integers(0, d, 2):
            references[i, j] = np.nextafter(references[i, j], np.float32(rng.choice((-1, 1))))
    references[10] = references[11]
    return rng.standard_normal((200, d)).astype(np.float32), references


@pytest.mark.parametrize("single", [False, True])
def test_what_float32_cannot_tell_is_decided_in_float64(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, references = near_ties()
    expected = bits_by_rule(rows, references, single)
    assert np.array_equal(block(rows).sketches(References(references, single)), expected)
    assert not np.any(expected >> np.uint64(10) & np.uint64(1))  # equal ones: neither is nearer
    monkeypatch.setattr(References, "sure", property(lambda self: 0.0))  # what trusts float32 is wrong
    assert np.any(block(rows).sketches(References(references, single)) != expected)


def test_short_rows_of_very_many_components() -> None:
    rows = np.full((2, 2**18), 2.0**-12.52, np.float16)  # of which the squares vanish
    rows[:, 0] = 2.0**-3.99
    found = block(rows).unit()
    assert np.array_equal(found, unit_by_rule(rows))
    assert 1.6 < np.linalg.norm(found, axis=1).max() < 1.75


def test_constants_that_kernels_have_again() -> None:
    assert projections.GRID == GRID
    assert PLAIN[1] < projections.SURELY_FITS


def test_rows_without_length_are_told() -> None:
    seen: list[Any] = []
    rows = np.ones((4, 8), np.float16)
    rows[1], rows[2, 3], rows[3, 0] = 0, np.inf, np.nan
    with np.errstate(all="ignore"):
        CpuBlock(rows, seen.append).unit()
        CpuBlock(rows, seen.append).sketches(References(unit_rows(np.random.default_rng(0), 64, 8)))
    for norms in seen:
        assert norms[0] == 8
        assert norms[1] == 0
        assert np.isinf(norms[2])
        assert np.isnan(norms[3])
