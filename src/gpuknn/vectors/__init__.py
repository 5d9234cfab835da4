"""Where rows come from, and where they go.

In: a path or URL (and a key where a file holds several arrays), or an array.  Out: `Vectors`, which tells its shape
and dtype without reading and reads rows into buffers of the caller's.  `arrays.py` takes what Python programs hold:
`in_memory.py` arrays and lists, `dask_rows.py` Dask's, `arrow.py` Arrow's, `zarr_held.py` Zarr's.  `opening.py`
chooses the reader of a file.  `names.py` tells which files a name stands for, `joined.py` makes one database of many.
Each format has a file that reads and writes it: `npy.py`, `fbin.py`, `vecs.py`, `hdf5.py`, `zarr.py`, `parquet.py`;
`npz.py` reads.  Readers build on `RawVectors` if rows lie one after another, on `DecodedVectors`
if a library unpacks them; writers are each a `Target`.  A `Vectors` of files or a `Target` can be sent to another
process.  `derived.py` is what makes rows of others, `converted.py` changes them on their way, `compare.py` and
`checksums.py` tell whether rows are still the same.  `ids.py` knows what a file calls its rows, `bits.py` packs
sketches of booleans and bytes, `written.py`, `hdf5_chunks.py` and `zarr_chunks.py` find rows that nobody wrote,
`hdf5_links.py` finds links out of a file, `stream.py` reads what can be decoded in order only.  May import `storage`
and `errors`.
"""

from gpuknn.vectors.arrays import Rows, as_vectors
from gpuknn.vectors.fingerprint import Sampled, content_fingerprint, file_state, sampled
from gpuknn.vectors.opening import open_vectors
from gpuknn.vectors.vectors import ArrayVectors, Vectors

__all__ = [
    "ArrayVectors",
    "Rows",
    "Sampled",
    "Vectors",
    "as_vectors",
    "content_fingerprint",
    "file_state",
    "open_vectors",
    "sampled",
]
