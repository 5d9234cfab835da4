"""`gpuknn project`: models of rows, and rows through a model.

job.py              what is to be fitted, or projected;  memory.py  on how many cores, as memory allows
fit.py              a model from a database: plan, exact sums of shards by workers, the model's file
apply.py            a database through a model, planned here and written by `jobs/rewrite`
project.py          both as functions
"""
