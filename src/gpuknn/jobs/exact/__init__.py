"""`gpuknn exact`: from a database and queries to their gold standard.

job.py              the question, by file
plan.py             how the work is cut;  predict.py  how long it will take
run.py              a plan at work: from its record to the gold-standard file
feed.py             which tasks are given when;  shard.py, merge.py  the two tasks;  tree.py  what is merged
partial.py          their results on disk
"""
