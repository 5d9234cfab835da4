"""Matrix products in the arithmetic that is asked for, whatever the settings of CuPy and cuBLAS."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cupy.cuda import device as cupy_device
from cupy_backends.cuda.libs import cublas

PEDANTIC = 2
"""CUBLAS_PEDANTIC_MATH, which CuPy has no name for."""
KINDS = {"float16": 2, "float32": 0}
"""CUDA_R_16F and CUDA_R_32F."""


@contextmanager
def in_true_float64() -> Iterator[None]:
    """Have cuBLAS multiply float64 in float64, and not emulate it: sums that float64 holds are then exact."""
    handle = cupy_device.get_cublas_handle()
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, PEDANTIC)
    try:
        yield
    finally:
        cublas.setMathMode(handle, before)


def product(left: Any, right: Any, out: Any) -> None:
    """The product left @ right.T of (n, d) and (m, d), both float16 or float32, into `out` (n * m,) float32."""
    (n, d), m, kind = left.shape, len(right), KINDS[left.dtype.name]
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    cublas.gemmEx(
        cupy_device.get_cublas_handle(),
        *(cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, m, n, d, one.ctypes.data),  # cuBLAS counts by columns
        *(right.data.ptr, kind, d, left.data.ptr, kind, d, zero.ctypes.data, out.data.ptr, KINDS["float32"], m),
        *(cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT),
    )
