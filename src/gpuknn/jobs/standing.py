"""How far a job that writes one file, or store, has come: for whoever interrupts it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpuknn.errors import same_again
from gpuknn.interrupts import kept_and_goes_on, nothing_changed
from gpuknn.storage.record import Claim, Record, rows_kept

JOB = "fingerprint"
"""Of what is noted of a finished output: the job's."""


@dataclass
class Standing:
    """What a job has brought to disk."""

    record: Record
    output: str
    there: Path | None
    """The output, if it is on this machine."""
    fresh: bool
    """Whether what an earlier call had left was thrown away."""
    kept: Callable[[int], str]
    """What is said of so many rows, of which something is kept."""
    fingerprint: str = ""
    claim: Claim | None = None
    finished: bool = False

    def __str__(self) -> str:
        """What is kept, and what the same command does."""
        if self.finished or (self.claim and self.record.noted(self.there).get(JOB) == self.fingerprint):
            return f"{self.output} is finished"
        if self.claim is None and not self.fresh:  # else earlier results may be gone
            return nothing_changed()
        done = rows_kept(self.claim.folder) if self.claim else 0
        if not done:
            return f"nothing is done yet, {same_again()} begins anew"
        return kept_and_goes_on(self.kept(done), self.fresh)
