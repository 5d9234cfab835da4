"""`gpuknn convert`: vectors and gold standards into the field's other formats.

job.py              what is to be converted
plan.py             what will be written, which `jobs/rewrite` then does;  choose.py  by which writer of `vectors`
layouts.py          files that hold queries and a gold standard beside the rows
gold.py             gold standards alone, which are small enough to be written at once
"""
