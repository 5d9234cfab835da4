import numpy as np
import pytest

from gpuknn.engine.cpu import kernels as cpu_kernels
from gpuknn.engine.metric import Metric, summation_leaves


@pytest.mark.parametrize("d", [1, 7, 8, 9, 15, 16, 127, 128, 129, 136, 255, 384, 768, 1000, 1025, 4096])
def test_sums_are_numpys_to_the_last_bit(d: int) -> None:
    rng = np.random.default_rng(d)
    rows = rng.standard_normal((20, d)) * 10 ** rng.uniform(-8, 8, (20, d))
    norms = np.empty(20)
    cpu_kernels.squared_norms(rows, summation_leaves(d), norms)
    assert np.array_equal(norms, (rows * rows).sum(axis=1))


def test_every_float16_is_read_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 1)
    wide = np.empty(finite.shape, np.float32)
    cpu_kernels.widen(finite.view(np.uint16), np.ones(len(finite)), wide)
    assert np.array_equal(wide.view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_kernels_number_the_metrics_as_they_are_listed() -> None:
    numbers = cpu_kernels.COSINE, cpu_kernels.IP, cpu_kernels.L2, cpu_kernels.HAMMING
    assert [list(Metric)[n].name for n in numbers] == ["COSINE", "IP", "L2", "HAMMING"]
