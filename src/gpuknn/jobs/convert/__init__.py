"""Vectors and gold standards into the field's other formats: bundles to Zarr and back, and what other tools read.

In: `Vectors` and what shall become of them (rows, dtype, length), or neighbours.  Out: a file, or a Zarr store in a
folder or an object store, written in pieces that can be taken up in any order by several processes.  `formats.py` knows
the formats' names, `choose.py` chooses the writer: one of `vectors`, or of `layouts.py` if queries and a gold standard
stand beside the rows.  `run.py` has the pieces written, `conversion_record.py` is what survives.  `gold.py` prepares
gold standards, which the room `gold` writes.  May import `workers`, `gold`, `vectors` and those below.
"""
