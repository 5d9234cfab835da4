"""Where files are, and how what is written survives.

`location.py` names places on disks and in object stores; `durable.py` is the one way to write a file whole; `lock.py`
tells who is at work; `record.py` keeps what a long job has finished; `destination.py` says what may be written to.
May import nothing of gpuknn but its errors.
"""
