"""How far a run has come: for whoever interrupts it."""

import os
from dataclasses import dataclass
from pathlib import Path

from gpuknn.errors import same_again
from gpuknn.interrupts import kept_and_goes_on, nothing_changed
from gpuknn.jobs.exact.plan import Plan
from gpuknn.storage.record import Claim, rows_kept


@dataclass
class Standing:
    """What a run has brought to disk."""

    plan: Plan
    claim: Claim | None = None
    """The record that the run holds, if it does so already."""
    answer: int | None = None
    """The inode of the answer, once that is written and only lacks its name."""

    def wrote(self, part: Path) -> None:
        """The answer is whole, under this name, and gets its own next."""
        self.answer = part.stat().st_ino

    def __str__(self) -> str:
        """What is kept, and what the same command does; for a person."""
        plan = self.plan
        if self.answer is not None and os.path.exists(plan.output) and plan.output.stat().st_ino == self.answer:
            return f"{plan.output} is finished"
        if self.claim is None:
            # With --fresh, earlier results may be gone.
            return f"nothing is done yet, {same_again()} begins anew" if plan.wishes.fresh else nothing_changed()
        done = rows_kept(self.claim.folder)
        if not done:
            return f"no rows are done yet, {same_again()} begins anew with the check of all rows"
        passes = -(-len(plan.job.queries) // self.claim.settings.get("queries_at_once", plan.block))
        in_passes = f" ({passes} passes)" if passes > 1 else ""
        rows = passes * len(plan.job.database)
        return kept_and_goes_on(f"{done:,} of {rows:,} rows{in_passes} are done and kept", plan.wishes.fresh)
