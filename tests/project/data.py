"""Rows that vary in some directions more than in others, about a mean."""

import numpy as np

N, D = 3_000, 40


def made(n: int = N, d: int = D, seed: int = 0) -> np.ndarray:
    """(n, d) float16, of lengths about 1."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) * np.linspace(1, 0.1, d) + rng.standard_normal(d)
    lengths = np.linalg.norm(rows, axis=1) * rng.uniform(0.999, 1.001, n)
    return (rows / lengths[:, None]).astype(np.float16)
