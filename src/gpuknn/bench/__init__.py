"""How fast this machine is and what of it the engine uses, beside others' exact search.

In: rows and queries, from a file or made here.  Out: rates, seconds, shares of each stage, ratios within one run.  May
import `exact` and `vectors`; other libraries only where they are installed.
"""
