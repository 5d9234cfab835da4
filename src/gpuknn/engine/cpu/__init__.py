"""The processor: `device.py` drives it with the filters of `scores.py` and `int8.py`, and the loops of `kernels/`.

`needed.py` says which of these a search calls, and has them compiled before it begins.
"""
