"""The processor: `device.py` drives it with the filters of `scores.py` and `int8.py`, and the loops of `kernels/`.

`block.py` projects rows.  `needed.py` says which loops a search or a projection calls, and has them compiled before.
"""
