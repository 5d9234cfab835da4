"""One client works on a run; a dead one's lock is taken over, on this machine at once, elsewhere after its silence."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpuknn.errors import RunError
from gpuknn.storage import lock as locks
from gpuknn.storage.lock import is_held, lock, owner_of

HOLD = """
import sys, time
from pathlib import Path
from gpuknn.storage.lock import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    monkeypatch.setattr(locks, "SILENCE", 1.0)
    return tmp_path / "run" / "gpuknn.lock"


def test_a_second_client_is_told_who_is_at_work(path: Path) -> None:
    with lock(path) as held:
        assert is_held(path)
        held.check()
        with pytest.raises(RunError, match=rf"another gpuknn \(process {os.getpid()} on "), lock(path):
            pass
        held.check()
    assert not is_held(path)
    with lock(path):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_on_this_machine_the_dead_are_told_from_the_slow(how: signal.Signals, path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        process.send_signal(how)
        if how is signal.SIGKILL:
            process.wait()
            assert not is_held(path)
            with lock(path, pytest.fail) as held:
                held.check()
        else:
            with pytest.raises(RunError, match=f"process {process.pid}"), lock(path):
                pass
            process.kill()


def test_a_silent_client_elsewhere_is_replaced_and_one_that_beats_is_not(path: Path) -> None:
    with lock(path):
        owner = json.loads(path.read_text()) | {"kernel": "another", "host": "node7"}
    path.write_text(json.dumps(owner))
    assert is_held(path)
    said: list[str] = []
    with lock(path, said.append) as held:
        assert "on node7 was at work on this run; watching for 1 s whether it still is" in said[0]
        held.check()
    path.write_text(json.dumps(owner))
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(RunError, match="on node7"), lock(path):
            pass
    finally:
        over.set()
        beating.join()


def test_a_client_whose_lock_was_taken_over_notices(path: Path) -> None:
    with lock(path) as held:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "node8", "pid": 4}))
        with pytest.raises(RunError, match="was taken over by process 4 on node8 meanwhile"):
            held.check()
    assert owner_of(path) is not None  # what is another's is left alone
    path.unlink()
    with lock(path) as held:
        path.unlink()
        with pytest.raises(RunError, match="was removed meanwhile"):
            held.check()


def test_a_damaged_lock_is_no_owner(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"host": 1')
    with lock(path) as held:
        held.check()


def test_where_the_system_knows_no_locks_heartbeats_tell(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock(path):
        assert is_held(path)
        with pytest.raises(RunError, match=f"process {os.getpid()}"), lock(path):
            pass
        os.utime(path, (0, 0))
        held_without_a_heartbeat = is_held(path)
    assert not held_without_a_heartbeat
    assert not is_held(path)


def test_what_happens_under_the_lock_is_not_the_locks_affair(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="an output's folder"), lock(path):
        raise FileNotFoundError("an output's folder")
    assert not is_held(path)


def test_a_folder_that_does_not_answer_for_a_moment_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with lock(path) as held:
        with monkeypatch.context() as patched:
            patched.setattr(locks, "_read", fail)
            held.check()
            assert not held.stop.wait(0.2)  # several heartbeats
        seen = path.stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while path.stat().st_mtime_ns == seen:
            assert time.monotonic() < deadline
