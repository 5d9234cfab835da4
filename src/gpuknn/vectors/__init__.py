"""Where rows come from.

In: a path (and a key where a file holds several arrays), or an array.  Out: `Vectors`, which tells its shape and dtype
without reading and reads rows into buffers of the caller's.  One small reader per file format.  A `Vectors` holds no
open file, so it can be sent to another process.  May import nothing of gpuknn but its errors.
"""

from gpuknn.vectors.fingerprint import content_fingerprint, file_identity
from gpuknn.vectors.source import ArrayVectors, Vectors, open_vectors

__all__ = ["ArrayVectors", "Vectors", "content_fingerprint", "file_identity", "open_vectors"]
