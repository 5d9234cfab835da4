"""Raw parts to a bundle: the rows that a rule keeps, their captions, and public queries.

job.py        what is asked for;  plan.py   which files make it, looked at by their headers
metadata.py   a part's metadata: which rows are kept, and their lines of captions;  kept.py   those rows
queries.py    rows of part 0 that have no near duplicates in the database
run.py        the work;  outputs.py   captions and queries, and what files say of themselves
build.py      `gpuknn.build`, the work in one call
"""
