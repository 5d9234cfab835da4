"""The heart: rows and queries in, exact neighbours out; one process, one device.

`metric.py` holds the definition of a right answer, `bound.py` the proof that the filter loses nothing, `scan.py`
the one loop, `device.py` the interface it drives, `cpu.py` and `cpu_kernels.py` the CPU behind it, `cpu_scores.py` its filters (`int8.py` the product one of them needs), `self_join.py` rows as
their own queries, `check.py` the
inspection of rows before anything is computed.  May import `vectors`; knows nothing of files, clusters or the terminal.
"""
