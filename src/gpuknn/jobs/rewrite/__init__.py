"""A database written anew, its rows made of another's one by one: for `gpuknn convert` and `gpuknn project apply`.

formats.py          the names of formats;  targets.py  their writers in `vectors`
plan.py             what will be written
run.py              a plan at work: pieces to workers, the finished target to its name
"""
