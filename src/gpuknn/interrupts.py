"""Ctrl-C and SIGTERM, put off until a moment that suits, and told in words."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from signal import SIGINT, SIGTERM

from gpuknn.errors import Interrupted, option, same_again, what_asked
from gpuknn.progress import Event, Listener

Check = Callable[[], None]
"""Raises KeyboardInterrupt if a signal was put off."""


@contextmanager
def interrupts_put_off(wake: Callable[[], None] | None = None) -> Iterator[Check]:
    """Raise KeyboardInterrupt only if the check is called that this yields, or when the context ends.

    Python raises it between any two steps of the main thread.  If Dask starts or closes a cluster then, half of the
    cluster is left.  If a Dask future ends then, Python ignores the exception, because it comes from `Future.__del__`,
    and the run goes on.

    The first signal calls `wake`, whatever this thread does then, so that a thread that waits comes to its next check.
    The second signal raises KeyboardInterrupt at once, since the check may be far away.  Without `wake` the second
    signal is put off, too.  A signal that the caller ignores or handles in another way is left alone.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread hears signals
        yield lambda: None
        return
    signals: list[int] = []
    over = False

    def put_off(number: int, _: object) -> None:
        signals.append(number)
        if over or (wake and len(signals) > 1):
            raise KeyboardInterrupt
        if wake:
            wake()

    def check() -> None:
        if signals:
            raise KeyboardInterrupt

    ours = [number for number in (SIGINT, SIGTERM) if signal.getsignal(number) is signal.default_int_handler]
    try:
        for number in ours:
            signal.signal(number, put_off)
        yield check
    except Exception as error:
        if signals:
            raise KeyboardInterrupt from error
        raise
    finally:
        over = True  # a signal that comes between the next steps is raised by either handler
        for number in ours:
            signal.signal(number, signal.default_int_handler)
    check()


@contextmanager
def interrupts_between(told: Listener) -> Iterator[Listener]:
    """Raise KeyboardInterrupt only when the listener that this yields is told of an event, or when the context ends."""
    with interrupts_put_off() as check:

        def hear(event: Event) -> None:
            told(event)
            check()

        yield hear


def nothing_changed() -> str:
    """What is said of an interrupt that came before the work began."""
    return f"this {what_asked()} has changed nothing yet, repeat it"


def kept_and_goes_on(kept: str, fresh: bool) -> str:
    """What is said of an interrupted job that has kept something; `fresh`: whether earlier results were thrown away."""
    again = f"{same_again()} without {option('fresh', True)}" if fresh else same_again()
    return f"{kept}, {again} goes on from there"


@contextmanager
def interrupts_told(what_is_kept: Callable[[], str] = nothing_changed) -> Iterator[None]:
    """Raise Interrupted, which says what is kept, if the work within raises KeyboardInterrupt."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        said = ""
        while not said:  # whoever is impatient sends more signals
            with suppress(KeyboardInterrupt), interrupts_put_off():
                said = what_is_kept()
        raise Interrupted(said) from None
