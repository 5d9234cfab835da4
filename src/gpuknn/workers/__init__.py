"""Where workers come from, what they have, and how they are kept fed.

In: what `--cluster`, `--device`, `--workers` and `--threads` say.  Out: a `Crew` (`crew.py`) whose workers compute.

    workers.py          who does the work: processes of this machine, or its GPUs
    cluster_file.py     what `--cluster` may name;  launch.py, leash.py  clusters that are started for a job
    cluster.py          Dask's clients: of a scheduler that is there, and of an embedded cluster
    memory.py           how much memory a job may take
    feed.py             tasks, given out a few at a time

May import `engine`, for what a device is.  Only this room and `jobs` know Dask.
"""
