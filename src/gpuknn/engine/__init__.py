"""The heart: rows and queries in, exact neighbours out; one process, one device.

`metric.py` holds the definition of a right answer, `bound.py` the proof that the filter loses nothing, `scan.py` the
one loop, `device.py` the interface it drives; `choose.py` chooses what is behind it: `cpu/`, or `cuda/`, which alone
knows CuPy.  `check.py` inspects rows before anything is computed; in `self_join.py` rows are their own queries.
`projecting.py` says what becomes of rows that are projected, and why its bytes are the same on all devices.  May
import `vectors`; knows nothing of files, clusters or the terminal.
"""
