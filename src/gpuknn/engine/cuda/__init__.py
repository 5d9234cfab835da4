"""The GPU: `device.py` drives it, `kernels.py` launches what `kernels.cu` holds, `table.py` knows what that takes;
`room.py` has the memory.
"""
