"""The heart: rows and queries in, exact neighbours out; one process, one device.

`metric.py` holds the definition of a right answer, `bound.py` the proof that the filter loses nothing, `scan.py` the
one loop, `device.py` the interface it drives.  Behind it are, on the CPU, `cpu.py`, its filters in `cpu_scores.py` (and
`int8.py`), and `cpu_kernels.py`; on GPUs `cuda.py`, `cuda_kernels.py` and `kernels.cu`, which alone know CuPy.
`check.py` inspects rows before anything is computed; in `self_join.py` rows are their own queries.  May import
`vectors`; knows nothing of files, clusters or the terminal.
"""
