"""One run: faults at random moments, the command typed again until it is finished, and a verdict."""

import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.faults import DONE, FAULTS, REFUSED, TAKEN_OVER, mount, unmount
from tests.faults.places import Place
from tests.faults.question import ROWS, SHARD, Question
from tests.faults.run import Attempt, Run, one_line

MOST_ATTEMPTS = 8
"""After the last fault one is enough, or two where damage was noticed at the end only."""
WINDOW = 2
"""Shards in flight for each worker."""


@dataclass(frozen=True)
class Verdict:
    """What happened in a run."""

    place: str
    struck: list[tuple[str, int]]
    """Faults, and the exit code of the attempt that each struck."""
    missed: list[str]
    """Faults that came too late."""
    exits: list[int]
    twice: int
    allowed: int
    """Shards that may have been computed twice."""
    seconds: float
    problems: list[str]


def do_run(
    question: Question, place: Place, faults: Sequence[str], folder: Path, chance: random.Random, **about: object
) -> Verdict:
    """Run the job once in `folder`, which is removed unless something was wrong."""
    began = time.monotonic()
    folder.mkdir()
    run = Run(question, place, folder, chance, **about)  # type: ignore[arg-type]
    mounted = any(FAULTS[name].needs_mount for name in faults)
    struck: list[tuple[str, int]] = []
    exits: list[int] = []
    waiting = list(faults)
    if mounted:
        mount(run)
    try:
        run.watch()
        while len(exits) < MOST_ATTEMPTS:
            place.ready()
            run.attempts.append(run.start())
            before = len(run.others)
            now = waiting[: chance.randint(1, 2)]
            happened = [name for name in now if _strike(run, name)]
            waiting = [name for name in waiting if name not in happened]
            exits.append(run.end(run.now))
            others = run.others[before:]
            exits_of_others = [run.end(other) for other in others]
            _check_exit(run, run.now, exits[-1], happened, more=() if len(exits) == 1 else (DONE,))
            for other, code in zip(others, exits_of_others, strict=True):
                _check_exit(run, other, code, happened, more=(DONE,))
                if code == 3 and len(happened) == 1 and not re.search(REFUSED, other.said):
                    run.problems.append(f"a second client was refused with other words: {other.said}")
                if "damage lock" not in faults and re.search(TAKEN_OVER, run.now.said):
                    run.problems.append(f"a second client took the run of a living one: {run.now.said}")
            if run.output.exists():
                run.check_answer()
            for name in happened:
                FAULTS[name].mend(run)
                struck.append((name, exits[-1]))
            if exits[-1] == 0 or (run.output.exists() and 0 in exits_of_others):
                break
            if run.output.exists() and re.search(DONE, run.now.said):
                break
        else:
            run.problems.append(f"not finished after {MOST_ATTEMPTS} attempts; the last said: {run.now.said}")
        run.check_left()
        costly = sum(name != "interrupt" for name, _ in struck)  # at an interrupt what is under way is saved
        allowed = WINDOW * place.workers * costly + run.damaged
        if run.watched.twice > allowed:
            run.problems.append(f"{run.watched.twice} shards were computed twice, at most {allowed} had to be")
        if run.watched.shards < ROWS // SHARD:
            run.problems.append(f"only {run.watched.shards} shards were seen")
        run.check_processes()
    finally:
        run.close()
        if mounted:
            unmount(run)
    if not run.problems:
        shutil.rmtree(folder)
    seconds = time.monotonic() - began
    return Verdict(place.name, struck, waiting, exits, run.watched.twice, allowed, seconds, run.problems)


def _strike(run: Run, name: str) -> bool:
    """Wait for a random moment and do it; whether the attempt was still at work."""
    attempt = run.now
    if FAULTS[name].early or run.chance.random() < 0.2:  # while things start
        until = time.monotonic() + run.chance.uniform(0, 2 if FAULTS[name].early else 4)
        while time.monotonic() < until and not attempt.ended:
            time.sleep(0.01)
    else:
        shards = run.chance.uniform(run.watched.shards, ROWS // SHARD)
        while run.watched.shards < shards and not attempt.ended:
            time.sleep(0.01)
        time.sleep(run.chance.uniform(0, 0.2))
    if attempt.ended:
        return False
    FAULTS[name].strike(run)
    return True


def _check_exit(run: Run, attempt: Attempt, code: int, happened: Sequence[str], more: tuple[str, ...]) -> None:
    """Whether a client may have ended so, and said it well; `more` patterns for what it may say with exit code 2."""
    allowed = {0, 3}.union(*(FAULTS[name].exits for name in happened))
    patterns = [*more, *(says for name in happened if (says := FAULTS[name].says))]
    if code == 2 and any(re.search(pattern, attempt.said) for pattern in patterns):
        allowed.add(2)
    if code not in allowed:
        run.problems.append(f"exit {code} after {list(happened)}: {attempt.said}")
    elif not one_line(attempt.said, code):
        run.problems.append(f"exit {code} after {list(happened)} without a line that tells why: {attempt.said}")


def table(verdicts: Sequence[Verdict]) -> str:
    """For each kind of fault: how often, with what exit codes, and what it cost."""
    head = ["fault", "struck", "runs", "missed", "exit codes", "attempts", "twice (most)", "allowed", "wrong"]
    lines = [head]
    for name in FAULTS:
        runs = [v for v in verdicts if any(name == kind for kind, _ in v.struck)]
        if not runs and not any(name in v.missed for v in verdicts):
            continue
        codes = Counter(code for v in verdicts for kind, code in v.struck if kind == name)
        lines.append(
            [
                name,
                str(codes.total()),
                str(len(runs)),
                str(sum(v.missed.count(name) for v in verdicts)),
                " ".join(f"{code}:{times}" for code, times in sorted(codes.items())),
                f"{sum(len(v.exits) for v in runs) / max(1, len(runs)):.1f}",
                f"{sum(v.twice for v in runs)} ({max((v.twice for v in runs), default=0)})",
                str(sum(v.allowed for v in runs)),
                str(sum(bool(v.problems) for v in runs)),
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
