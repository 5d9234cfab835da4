"""What projections are, in plain NumPy: the rules that `engine/projecting.py` tells."""

import numpy as np


def unit_by_rule(rows: np.ndarray) -> np.ndarray:
    """(m, d) float64: rows of unit length."""
    if rows.dtype != np.float16:
        wide = rows.astype(np.float64)
        return np.rint(wide * (2.0**24 / np.sqrt(np.square(wide).sum(axis=1)))[:, None]) / 2.0**24
    with np.errstate(over="ignore"):
        sums = np.square(rows).sum(axis=1, dtype=np.float64)
    lengths = np.sqrt(np.square(rows.astype(np.float64)).sum(axis=1))
    scale = np.where((sums >= 2.0**-8) & (sums < 64), 1.0, np.ldexp(1.0, -np.frexp(lengths)[1]))[:, None]
    wide = rows.astype(np.float64) * scale
    norms = np.sqrt(np.square(wide).astype(np.float16).sum(axis=1, dtype=np.float64)).astype(np.float16)
    return (wide * (1 / norms).astype(np.float64)[:, None]).astype(np.float16).astype(np.float64)


def bits_by_rule(rows: np.ndarray, references: np.ndarray, single: bool = False) -> np.ndarray:
    """(m, words) uint64: whether a row is nearer to each reference than to the next of its 64."""
    x, r = rows.astype(np.float64), references.astype(np.float64)
    products = np.stack([(x * one).sum(axis=1) for one in r], axis=1).reshape(len(x), -1, 64)
    far = (1 - products).astype(np.float32) if single else -products
    return np.packbits(far < np.roll(far, -1, axis=2), axis=2, bitorder="little").view("<u8")[:, :, 0]
