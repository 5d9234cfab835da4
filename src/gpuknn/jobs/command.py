"""The command line that does what a call does: `gpuknn runs` shows it, and goes on with it."""

from collections.abc import Mapping, Sequence
from typing import Any


def command_line(verb: str, files: Sequence[object], options: Mapping[str, Any]) -> list[str]:
    """The words after `gpuknn`; options that are None or False were not given."""
    words = [verb, *map(str, files)]
    for name, value in options.items():
        dashed = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
        if value is not None and value is not False:
            words += [dashed] if value is True else [dashed, str(value)]
    return words
