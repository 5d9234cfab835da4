"""`gpuknn convert`: vectors and gold standards into the field's other formats.

job.py              what is to be converted;  formats.py  the names of formats
plan.py             what will be written;  choose.py  by which writer of `vectors`
run.py              a plan at work: pieces to workers, the finished target to its name
layouts.py          files that hold queries and a gold standard beside the rows
gold.py             gold standards alone, which are small enough to be written at once
"""
