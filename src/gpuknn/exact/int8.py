"""Products of 8-bit integers by onnxruntime, where it is installed and the processor is made for them."""

import base64
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

Int8Product = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(b, d) uint8, with 128 added, times (d, t) int8: (b, t) int32, exact.  Any number of threads may call it."""

# An ONNX model of one node, MatMulInteger (operator set 10): y = (a - z) b; a (m, k) uint8, b (k, n) int8, z uint8.
MODEL = base64.b64decode(
    "CAUSADpyChsKAWEKAWIKAXoSAXkiDU1hdE11bEludGVnZXISAWdaFQoBYRIQCg4IAhIKCgMSAW0KAxIBa1oVCgFiEhAKDggDEgoKAxIBawoDEgFu"
    "WgsKAXoSBgoECAISAGIVCgF5EhAKDggGEgoKAxIBbQoDEgFuQgQKABAK"
)


def int8_product() -> Int8Product | None:
    """A product that uses the calling thread only; None where there is none, or none that is exact.

    On processors without dot products of 8-bit integers such libraries add pairs in 16 bits and saturate: the largest
    values are tried, and where their sum is not exact the product is not used.
    """
    if not find_spec("onnxruntime"):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    zero_point = np.array(128, np.uint8)

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sums: np.ndarray = session.run(None, {"a": a, "b": b, "z": zero_point})[0]
        return sums

    return multiply if _is_exact(multiply) else None


def _is_exact(multiply: Int8Product) -> bool:
    """Whether the largest values of either sign are multiplied and added without saturation."""
    a = np.repeat(np.array([[255], [1], [128], [255]], np.uint8), 256, axis=1)
    a[3, ::2] = 1
    b = np.repeat(np.array([[127, -127, 127, -127]], np.int8), 256, axis=0)
    b[::2, 2:] *= -1
    expected = (a.astype(np.int32) - 128) @ b.astype(np.int32)
    return bool(np.array_equal(multiply(a, b), expected))
