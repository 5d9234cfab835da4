"""The GPU: `device.py` drives it, `room.py` has its memory, `kernels.py` launches what `kernels.cu` holds.

`table.py` knows what that takes.  `block.py` projects rows, `product.py` multiplies by cuBLAS.
"""
