"""The long verbs, one folder each: a plan that starts nothing, and a run of it over a record.

In: a job, and a crew (`workers.crew`) to do it.  Out: a file, an `Outcome`, and events on the way.  May import
`bench`, `workers` and those below; a verb's folder knows nothing of another's.

    rewrite/            what verbs share that write a database anew, row by row
    standing.py         how far such a verb is, for whoever interrupts it;  writing.py  its target, piece by piece
    tally.py            how far a job is, by its events
    command.py          the command line that does what a call does
    pieces.py           jobs whose work is pieces of rows, in any order
    events.py           what workers tell;  page.py, watch.py  who sees it in a browser
"""
