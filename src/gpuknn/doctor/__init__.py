"""What is here, and does it give right answers: the first thing to run on a new machine.

In: a device's name and a folder to try the disk in.  Out: a report of facts, checks and the rates that `bench` has
measured, and its page.  Files: `machine.py`, `gpus.py` what is here; `selftest.py` answers against a plain definition
that shares no code with the engine; `gpu.py` what only a GPU can get wrong; `examine.py` all of it in order; `page.py`
the page; `compile.py` kernels compiled ahead, which examines nothing.  May import `bench`, `workers`, `engine` and
`vectors`; CuPy only in `gpu.py`, and in `gpus.py` if it is there.
"""
