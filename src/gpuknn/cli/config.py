"""`--config FILE.yaml`: options of a command, by their names, from a file."""

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from gpuknn.errors import InputError

FILES = {"database": "database", "queries_file": "queries"}
"""What a command takes without an option, and its name in the file."""
SETS = ("public", "private")
"""Of queries that belong to a subset, and are no file."""


def options_from(path: Path, command: argparse.ArgumentParser) -> dict[str, Any]:
    """What the file's `name: value` lines say, under the names that `command` knows its options by.

    `true` is an option without a value; `false` leaves an option out.  Raises InputError, which names the file and the
    line's name, where the command has no such option or the option does not take the value.
    """
    given = {}
    lines = _read(path)
    actions = _actions(command, lines)
    for name, value in lines.items():
        if name not in actions:
            near = get_close_matches(name, actions, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"{command.prog} --help lists them"
            raise InputError(f"{path}: there is no option {name!r}; {hint}")
        if value is not False:
            try:
                given[actions[name].dest] = _value(command, actions[name], value)
            except argparse.ArgumentError as error:
                raise InputError(f"{path}: {name}: {error.message}") from error
            except ValueError as error:  # a number of thousands of digits
                raise InputError(f"{path}: {name}: {error}") from error
    return given


def _read(path: Path) -> dict[str, Any]:
    try:
        lines = yaml.safe_load(path.read_text())
    except Exception as error:  # YAML's constructors raise what they like
        raise InputError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(lines, dict) or not all(isinstance(value, str | int | float) for value in lines.values()):
        raise InputError(f"{path}: must hold lines of `option: value`")
    if "config" in lines:
        raise InputError(f"{path}: a config file cannot name another")
    return {str(name): value for name, value in lines.items()}


def _actions(command: argparse.ArgumentParser, lines: dict[str, Any]) -> dict[str, argparse.Action]:
    """The command's options by their names without dashes, and its files.

    `queries` is a file, except for a subset, which has two sets of them by name.
    """
    actions = {name.lstrip("-"): action for action in command._actions for name in action.option_strings}
    subset = "subset" in lines or ("database" not in lines and lines.get("queries") in SETS)
    for action in command._actions:
        name = FILES.get(action.dest)
        if name and not (name == "queries" and subset):
            actions[name] = action
    return {name: action for name, action in actions.items() if name not in ("h", "help")}


def _value(command: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    """What the command line makes of such a word: its type, then its choices; raises ArgumentError."""
    if action.nargs == 0 and value is not True:
        raise argparse.ArgumentError(None, f"takes true or false, not {value}")
    if action.nargs != 0 and value is True:
        raise argparse.ArgumentError(None, "takes a value, not true")
    return action.const if value is True else command._get_values(action, [str(value)])
