"""The processor: `device.py` drives it with the filters of `scores.py` and `int8.py`, and the loops of `kernels/`."""
