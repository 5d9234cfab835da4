"""Faults at random moments of a real job: `python -m tests.faults --runs 100 --seed 0`.

`question.py` is the job's input and its right answer, `places.py` where the workers are, `run.py` one run of the job
with the command's attempts, `watch.py` counts the shards computed, `faults.py` what is done to it, `harness.py` does it
and judges.
"""
