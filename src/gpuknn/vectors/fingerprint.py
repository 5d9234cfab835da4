"""How a database is told from another: by what it holds, and by whether it changed since."""

import hashlib
import os
from pathlib import Path

import numpy as np

from gpuknn.vectors.source import Vectors

SAMPLES = 64
SAMPLE_BYTES = 2**16


def content_fingerprint(vectors: Vectors) -> str:
    """Shape, dtype and a sample of the rows (evenly spread runs of 64 KiB), hashed; 32 hexadecimal digits.

    Equal for equal content wherever and however it is stored.
    """
    n, d = vectors.shape
    digest = hashlib.blake2b(f"{n} {d} {vectors.dtype.str}".encode(), digest_size=16)
    run = min(n, max(1, SAMPLE_BYTES // (d * vectors.dtype.itemsize)))
    for first in np.unique(np.linspace(0, n - run, SAMPLES).astype(np.int64)):
        digest.update(vectors[int(first) : int(first) + run].tobytes())
    return digest.hexdigest()


def file_identity(vectors: Vectors) -> str:
    """Content, key, and the files' sizes and times of change: not equal once something was written to them."""
    path = Path(vectors.path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.blake2b(f"{content_fingerprint(vectors)} {vectors.key}\n".encode(), digest_size=16)
    for file in files:
        status = os.stat(file)
        digest.update(f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
