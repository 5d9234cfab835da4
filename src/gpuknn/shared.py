"""What is changed of this process as a whole, by any number of searches and runs at once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import RLock


class Shared:
    """A change that several threads may want at once: the first makes it, the last undoes it.

    Contexts that save and restore would, if they overlap, restore what another has changed.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self._change, self._made = change, ExitStack()
        self.lock, self.wanted = RLock(), 0
        """How many want it at present; the lock is to be held while that is looked at."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The change is made as long as the context lasts; contexts may overlap and end in any order."""
        with self.lock:
            if not self.wanted:
                self._made.enter_context(self._change())
            self.wanted += 1
        try:
            yield
        finally:
            with self.lock:
                self.wanted -= 1
                if not self.wanted:
                    self._made.close()
