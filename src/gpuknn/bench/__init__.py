"""How fast this machine is and what of it the engine uses, beside others' exact search.

In: a device, rows and queries, from a file or made here.  Out: rates, seconds, shares of each stage, ratios within one
run; and what was measured before, for predictions.  Files: `rate.py` a figure; `processor.py`, `reading.py`, `gpu.py`
how fast each of them is; `measure.py` the engine beside the bare product and `peers.py`; `kept.py` what is remembered.
May import `engine`, `vectors` and `storage`; CuPy only in `gpu.py`; other libraries only if they are installed.
"""
