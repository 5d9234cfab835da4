"""`--config FILE.yaml`: options of a command, by their names, from a file."""

from pathlib import Path

import yaml

from gpuknn.errors import InputError


def options_from(path: Path) -> list[str]:
    """The file's `name: value` lines as words of a command line; raises InputError where it holds something else.

    `true` is an option without a value; `false` leaves it out.
    """
    try:
        options = yaml.safe_load(path.read_text())
    except Exception as error:  # YAML's constructors raise what they like
        raise InputError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(options, dict) or not all(isinstance(value, str | int | float) for value in options.values()):
        raise InputError(f"{path}: must hold lines of `option: value`")
    if "config" in options:
        raise InputError(f"{path}: a config file cannot name another")
    words: list[str] = []
    for name, value in options.items():
        if value is not False:
            option = f"-{name}" if len(str(name)) == 1 else f"--{name}"
            words += [option] if value is True else [option, str(value)]
    return words
