"""Products of 8-bit integers by onnxruntime, where it is installed and the processor is made for them."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np


@dataclass(frozen=True)
class Int8Product:
    """A product of 8-bit integers whose sums are exact."""

    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(b, d) uint8, with 128 added, times (d, t) int8: (b, t) int32.  Any number of threads may call it."""
    largest: int
    """The second factor's components are from -largest to largest: 127, or 63 where more could saturate."""


# An ONNX model of one node, MatMulInteger (operator set 10): y = (a - z) b; a (m, k) uint8, b (k, n) int8, z uint8.
MODEL = base64.b64decode(
    "CAUSADpyChsKAWEKAWIKAXoSAXkiDU1hdE11bEludGVnZXISAWdaFQoBYRIQCg4IAhIKCgMSAW0KAxIBa1oVCgFiEhAKDggDEgoKAxIBawoDEgFu"
    "WgsKAXoSBgoECAISAGIVCgF5EhAKDggGEgoKAxIBbQoDEgFuQgQKABAK"
)


def int8_product() -> Int8Product | None:
    """A product that uses the calling thread only; None where there is none that is exact.

    Processors without dot products of 8-bit integers (VNNI and the like) add pairs of products in 16 bits, which
    saturates for the largest values.  With seven bits in one factor it cannot: 2 x 255 x 63 < 2^15.  What is exact
    here is tried out.
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

    exact = (product for product in (Int8Product(multiply, 127), Int8Product(multiply, 63)) if _is_exact(product))
    return next(exact, None)


def _is_exact(product: Int8Product) -> bool:
    """Whether the largest values of either sign are multiplied and added without saturation."""
    a = np.repeat(np.array([[255], [1], [128], [255]], np.uint8), 256, axis=1)
    a[3, ::2] = 1
    b = np.repeat(np.array([[1, -1, 1, -1]], np.int8), 256, axis=0) * np.int8(product.largest)
    b[::2, 2:] *= -1
    expected = (a.astype(np.int32) - 128) @ b.astype(np.int32)
    return bool(np.array_equal(product.multiply(a, b), expected))
