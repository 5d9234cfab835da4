"""What is said of jobs that are interrupted, at each moment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gpuknn
from gpuknn.cli import main as command_line
from gpuknn.cli.main import main
from gpuknn.jobs.exact import run
from gpuknn.jobs.exact.partial import write_partial
from gpuknn.jobs.exact.plan import Plan
from gpuknn.jobs.rewrite import run as conversion
from gpuknn.progress import Event
from gpuknn.storage.record import Claim, Record
from gpuknn.workers.crew import Crew
from tests.answers import neighbors

Patch = pytest.MonkeyPatch
N, NQ = 50, 9


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((N, 4)).astype(np.float32)
    np.save("db.npy", rows)
    np.save("q.npy", rows[:NQ])


def exact(**options: object) -> gpuknn.Outcome:
    return gpuknn.exact("db.npy", "q.npy", "gold.ibin", k=3, **options)  # type: ignore[arg-type]


def said(work: Callable[[], object]) -> str:
    with pytest.raises(gpuknn.Interrupted) as told:
        work()
    return str(told.value)


def some_done(monkeypatch: Patch) -> None:
    """Rows 0 to 19 are brought to disk in place of all, and rows 0 to 9 are there, too."""

    def compute(plan: Plan, claim: Claim, *_: object) -> None:
        size = plan.block
        for start in range(0, NQ, size):
            block = range(start, min(start + size, NQ))
            for rows in (range(10), range(20)):
                write_partial(claim.folder, block, rows, *neighbors(len(block), 3), "cpu")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_partials", compute)


def test_before_the_work(monkeypatch: Patch) -> None:
    monkeypatch.setattr("gpuknn.jobs.exact.exact.ask", interrupt)
    assert said(exact) == "this call has changed nothing yet, repeat it"


def test_while_rows_are_checked(monkeypatch: Patch) -> None:
    monkeypatch.setattr(run, "check_content", interrupt)
    assert said(exact) == "no rows are done yet, the same call begins anew with the check of all rows"


def test_while_shards_are_computed(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    some_done(monkeypatch)
    assert said(exact) == "20 of 50 rows are done and kept, the same call goes on from there"
    again = "the same call without fresh=True goes on from there"
    assert said(lambda: exact(fresh=True)) == f"20 of 50 rows are done and kept, {again}"
    words = ["exact", "db.npy", "q.npy", "-k", "3", "-o", "gold.ibin"]
    assert main([*words, "--fresh"]) == 130
    assert "the same command without --fresh goes on from there" in capsys.readouterr().err
    assert main(["runs"]) == 0
    assert "20 of 50 rows done" in capsys.readouterr().out, "rows of results that overlap count once"


def test_in_one_of_several_passes(monkeypatch: Patch) -> None:
    some_done(monkeypatch)
    plan = replace(gpuknn.plan_exact("db.npy", "q.npy", "gold.ibin", k=3), block=3)
    assert said(plan.run) == "60 of 150 rows (3 passes) are done and kept, the same call goes on from there"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("when", ["before the record goes", "half through", "after"])
def test_when_the_answer_is_written(when: str, force: bool, monkeypatch: Patch) -> None:
    if force:
        Path("gold.ibin").write_bytes(b"")

    def progress(event: Event) -> None:
        if event["event"] == "written":
            raise KeyboardInterrupt

    remove = Record.remove

    def remove_and_interrupt(record: Record) -> None:
        if when == "half through":
            remove(record)
        raise KeyboardInterrupt

    if when != "after":
        monkeypatch.setattr(Record, "remove", remove_and_interrupt)
    assert said(lambda: exact(progress=progress, force=force)).endswith("gold.ibin is finished")
    assert gpuknn.read_gold("gold.ibin").shape == (NQ, 3)


def test_whoever_is_impatient_is_told_no_less(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    """A further Ctrl-C comes while the bar is closed."""
    some_done(monkeypatch)

    @contextmanager
    def shown(_: object) -> Iterator[Callable[[object], None]]:
        try:
            yield lambda _: None
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr("gpuknn.cli.progress.shown", shown)
    assert main(["exact", "db.npy", "q.npy", "-k", "3", "-o", "gold.ibin"]) == 130
    said = "20 of 50 rows are done and kept, the same command goes on from there"
    assert capsys.readouterr().err == f"gpuknn: interrupted; {said}\n"


def test_while_earlier_results_are_thrown_away(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Record, "_claim", interrupt)
    assert said(exact) == "this call has changed nothing yet, repeat it"
    assert said(lambda: exact(fresh=True)) == "nothing is done yet, the same call begins anew"
    assert said(lambda: convert(fresh=True)) == "nothing is done yet, the same call begins anew"


def test_just_before_the_answer_has_its_name(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Record, "note", interrupt)
    assert said(exact) == "50 of 50 rows are done and kept, the same call goes on from there"


def convert(**options: object) -> gpuknn.Conversion:
    return gpuknn.convert("db.npy", "a.npy", **options)  # type: ignore[arg-type]


def test_conversions(monkeypatch: Patch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("gpuknn.jobs.convert.convert.plan_convert", interrupt)
        assert said(convert) == "this call has changed nothing yet, repeat it"
    with monkeypatch.context() as patched:
        patched.setattr(Crew, "feeder", interrupt)
        assert said(convert) == "nothing is done yet, the same call begins anew"
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_check_unchanged", interrupt)
        assert said(convert) == "50 of 50 rows are written and kept, the same call goes on from there"
        again = "the same call without fresh=True goes on from there"
        assert said(lambda: convert(fresh=True)) == f"50 of 50 rows are written and kept, {again}"
    with monkeypatch.context() as patched:
        patched.setattr(Record, "remove", interrupt)
        assert said(convert).endswith("a.npy is finished")
    assert convert().output.endswith("a.npy")


@pytest.mark.parametrize("words", [["eval", "a", "b"], ["compare", "a", "b"], ["bench"], ["doctor"], ["runs"]])
def test_commands_with_nothing_to_go_on_with(
    words: list[str], monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_verbs = command_line.add_verbs

    def add(commands: object) -> None:
        add_verbs(commands)  # type: ignore[arg-type]
        commands.choices[words[0]].set_defaults(run=interrupt)  # type: ignore[attr-defined]

    monkeypatch.setattr(command_line, "add_verbs", add)
    assert main(words) == 130
    assert capsys.readouterr().err == "gpuknn: interrupted; the same command starts again\n"
