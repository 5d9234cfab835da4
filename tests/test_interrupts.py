"""Signals that come while KeyboardInterrupt would do harm."""

import os
import signal
import threading
from signal import SIGINT, SIGTERM

import pytest

from gpuknn.errors import RunError
from gpuknn.interrupts import interrupts_between, interrupts_put_off


def send(number: signal.Signals = SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("how", [SIGINT, SIGTERM])
def test_a_signal_is_raised_by_the_check(how: signal.Signals) -> None:
    reached: list[str] = []

    def work() -> None:
        with interrupts_put_off(lambda: reached.append("woken")) as check:
            check()
            send(how)
            reached.append("before")
            check()
            reached.append("behind")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["woken", "before"]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_is_raised_at_the_end(fails: bool) -> None:
    """Also if the work then fails, perhaps because its workers heard the same signal."""

    def work() -> None:
        with interrupts_put_off(lambda: None):
            send()
            if fails:
                raise RunError("the workers are gone")

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.usefixtures("handlers")
def test_the_second_signal_is_raised_at_once() -> None:
    reached: list[str] = []

    def work() -> None:
        with interrupts_put_off(lambda: reached.append("woken")):
            send()
            reached.append("behind the first")
            send(SIGTERM)
            reached.append("behind the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["woken", "behind the first"]


@pytest.mark.usefixtures("handlers")
def test_no_signal_is_raised_amid_what_must_not_stand_by_half() -> None:
    reached = 0

    def work() -> None:
        nonlocal reached
        with interrupts_put_off():
            for number in (SIGINT, SIGTERM, SIGINT):
                send(number)
                reached += 1

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == 3


@pytest.mark.usefixtures("handlers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_signals_are_not_lost_though_both_are_raised_in_vain() -> None:
    class Ends:
        def __del__(self) -> None:
            send()
            send()

    def work() -> None:
        with interrupts_put_off(lambda: None) as check:
            Ends()
            check()

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "the caller's own"])
def test_other_handlers_are_left_alone(handler: signal.Handlers) -> None:
    earlier = signal.signal(SIGINT, handler)
    try:
        with interrupts_put_off(lambda: None) as check:
            send()
            check()
    finally:
        assert signal.signal(SIGINT, earlier) is handler


@pytest.mark.usefixtures("handlers")
def test_another_thread_changes_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with interrupts_put_off(lambda: None):
            seen.append(signal.getsignal(SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_waits_for_the_next_event() -> None:
    done: list[str] = []

    def work() -> None:
        with interrupts_between(lambda event: done.append(event["event"])) as told:
            for number in (SIGINT, SIGTERM, SIGINT):
                send(number)
            done.append("the step that was interrupted")
            told({"event": "compiled"})
            done.append("more")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the step that was interrupted", "compiled"]
