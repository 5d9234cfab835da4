"""The command line that does what a call does: `gpuknn runs` shows it, and goes on with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpuknn.errors import dashed, given


def command_line(verb: str, files: Sequence[object], options: Mapping[str, Any]) -> list[str]:
    """The words after `gpuknn`."""
    words = [verb, *map(str, files)]
    for name, value in given(options).items():
        words += [dashed(name)] if value is True else [dashed(name), str(value)]
    return words
