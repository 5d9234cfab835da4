"""Many workers: plan, cluster, shards, partial results, resume, merge.

In: a `Job` (database, queries, k, metric).  Out: a gold-standard file.  The only room that knows Dask; may import
`exact`, `gold`, `convert` and `vectors`.

    exact.py            a job from its files to its gold standard
    plan.py             how the work is cut;  predict.py  how long it will take;  memory.py  how much it may hold
    workers.py          who does it;  cluster.py, cluster_file.py, launch.py, leash.py  where they come from
    feed.py             what they are given when;  shard.py, merge.py  the two tasks
    run_directory.py    what survives;  partial.py, durable.py, lock.py  its files
    events.py           what workers tell;  page.py, watch.py  who sees it
    convert.py          a conversion, by the same means;  conversion_record.py  what survives of it
"""
