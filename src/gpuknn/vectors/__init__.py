"""Where rows come from.

In: a path or URL (and a key where a file holds several arrays), or an array.  Out: `Vectors`, which tells its shape and
dtype without reading and reads rows into buffers of the caller's.  One small reader per file format: `RawVectors` where
rows lie one after another, `DecodedVectors` where a library unpacks them.  A `Vectors` can be sent to another process.
`ids.py` knows what a file calls its rows, `bits.py` packs booleans, `written.py`, `hdf5_chunks.py` and `zarr_chunks.py`
find rows that nobody wrote, `stream.py` reads what can be decoded in order only.
May import nothing of gpuknn but its errors.
"""

from gpuknn.vectors.fingerprint import Sampled, content_fingerprint, file_state, sampled
from gpuknn.vectors.source import ArrayVectors, Vectors, open_vectors

__all__ = ["ArrayVectors", "Sampled", "Vectors", "content_fingerprint", "file_state", "open_vectors", "sampled"]
