"""Vectors and gold standards into the field's other formats: bundles to Zarr and back, and what other tools read.

In: `Vectors` and what shall become of them (rows, dtype, length), or neighbours.  Out: a file, or a Zarr store in a
folder or an object store, written in pieces that can be taken up in any order by several processes.  `formats.py` knows
the formats' names, `rows.py` changes rows, `target.py` is what every writer offers, and `flat.py`, `hdf5.py`,
`zarr.py`, `parquet.py` are the writers, among which `choose.py` chooses.  `gold.py` prepares and checks gold standards,
which the room `gold` writes; `check.py` compares content, `notes.py` checks it by what the target says of itself.  May
import `vectors`, `gold` and, for what neighbours are, `exact.neighbors`; knows nothing of Dask.
"""
