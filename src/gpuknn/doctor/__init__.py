"""What is here, does it give right answers, how fast is it: the first thing to run on a new machine.

In: a device's name and a folder to try the disk in.  Out: a report of facts, checks and rates, and its page.  Files:
`machine.py`, `gpus.py` what is here; `selftest.py` answers against a plain definition that shares no code with the
engine; `gpu.py` what only a GPU can get wrong; `rates.py` how fast a GPU is; `examine.py` all of it in order; `page.py`
the page.  May import `exact` and `vectors`; CuPy only in `gpu.py` and `rates.py`, and in `gpus.py` where it is there.
"""
