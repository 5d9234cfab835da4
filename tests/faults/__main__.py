"""`python -m tests.faults --runs 100 --seed 0`."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.faults import FAULTS, can_mount
from tests.faults.harness import Verdict, do_run, table
from tests.faults.places import Alone, Embedded, Place, Remote
from tests.faults.question import make_question
from tests.faults.run import environment


def main() -> int:
    """Do runs, print a line for each and a table; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="the one run of this number")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, help="these kinds, all in every run")
    parser.add_argument("--place", choices=("alone", "embedded", "remote"), help="workers of this kind only")
    parser.add_argument("--pause", type=float, default=60, help="seconds for which a process is stopped")
    parser.add_argument("--slow", type=float, default=0.2, help="seconds that a worker waits for a read at most")
    chosen = parser.parse_args()
    # A shell starts what runs in its background with SIGINT ignored, and clients would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="gpuknn-faults-"))
    sys.stdout.write(f"seed {chosen.seed}, in {folder}\n")
    question = make_question(folder)
    variables = environment(folder, chosen.slow)
    kinds = [name for name, fault in FAULTS.items() if not fault.needs_mount or can_mount(folder)]
    if chosen.place == "alone":
        kinds = [name for name in kinds if not FAULTS[name].needs_processes and not FAULTS[name].remote_only]
    remote = Remote(folder, variables)
    places: dict[str, Place] = {place.name: place for place in (Alone(), Embedded(), remote)}
    verdicts: list[Verdict] = []
    try:
        for number in range(chosen.runs) if chosen.only is None else [chosen.only]:
            chance = random.Random(f"{chosen.seed}-{number}")
            faults = chosen.faults or choose(number, kinds, chance)
            place = places[choose_place(faults, chosen.place, chance)]
            about = {"environment": variables, "pause": chosen.pause}
            verdicts.append(do_run(question, place, faults, folder / f"run-{number}", chance, **about))
            say(number, verdicts[-1])
    except KeyboardInterrupt:
        sys.stdout.write("interrupted; this far:\n")
    finally:
        remote.close()
    sys.stdout.write(table(verdicts) + "\n")
    wrong = sum(bool(v.problems) for v in verdicts)
    struck = sum(len(v.struck) for v in verdicts)
    sys.stdout.write(f"{struck} faults in {len(verdicts)} runs, {wrong} runs wrong\n")
    if not wrong:
        shutil.rmtree(folder)
    return int(wrong > 0)


def choose(number: int, kinds: list[str], chance: random.Random) -> list[str]:
    """The faults of a run: every kind in its turn, and up to two more."""
    more = chance.sample(kinds, chance.choice([0, 0, 1, 1, 2]))
    return list(dict.fromkeys([kinds[number % len(kinds)], *more]))


def choose_place(faults: list[str], wanted: str | None, chance: random.Random) -> str:
    """Where the workers of a run with these faults are."""
    struck = [FAULTS[name] for name in faults]
    if any(fault.remote_only for fault in struck):
        return "remote"
    needs_processes = any(fault.needs_processes for fault in struck)
    return wanted or chance.choice(["embedded", "remote"] if needs_processes else ["alone", "embedded", "remote"])


def say(number: int, verdict: Verdict) -> None:
    """A line for a run, and what was wrong."""
    happened = ", ".join(f"{name} ({code})" for name, code in verdict.struck) or "nothing in time"
    sys.stdout.write(
        f"run {number} {verdict.place}: {happened}; exits {verdict.exits}; "
        f"{verdict.twice} shards twice of {verdict.allowed} allowed; {verdict.seconds:.0f} s\n"
    )
    for problem in verdict.problems:
        sys.stdout.write(f"    WRONG: {problem}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
