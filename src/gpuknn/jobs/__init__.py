"""Many workers: plan, cluster, shards, partial results, resume, merge.

In: a `Job` (database, queries, k, metric).  Out: a gold-standard file.  `plan.py` cuts the work, `workers.py` and
`cluster.py` find who does it, `shard.py` is the one task they run, `run_directory.py` keeps what is finished,
`exact.py` holds it together.  May import `exact`, `gold` and `vectors`; the only room that knows Dask.
"""
