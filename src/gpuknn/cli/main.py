"""`gpuknn`: finds the command, turns errors into one line and an exit code."""

import argparse
import os
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NoReturn

import gpuknn.cli
from gpuknn.cli.config import options_from
from gpuknn.cli.log import write_event
from gpuknn.errors import INTERRUPTED, InputError, RunError, at_the_terminal, what_was_told
from gpuknn.interrupts import interrupts_put_off

SHARED = {"config", "log", "main", "options", "plot", "progress", "subset"}
"""Modules of this room that are no command."""
DESCRIPTION = "Exact nearest neighbours for gold standards, the same to the last bit on any device."
EXIT_CODES = (
    "exit codes: 0 done; 1 the check said no; 2 the input or the command line is wrong; "
    "3 the run failed, the same command goes on; 130 interrupted, the last line says what is kept"
)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        if "unrecognized arguments" in message and any(map(os.path.exists, message.split())):
            message += "; put a pattern of names in quotes, or else the shell makes many arguments of it"
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    with at_the_terminal():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    parser = Parser(prog="gpuknn", description=DESCRIPTION, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"gpuknn {gpuknn.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    chosen, code = argparse.Namespace(), 3
    try:
        add_verbs(commands)
        words = sys.argv[1:] if arguments is None else arguments
        chosen = _parse(parser, words)
        if config := getattr(chosen, "config", None):
            options = commands.choices[words[0]]
            options.set_defaults(**options_from(config, options))
            chosen = _parse(parser, words)
        chosen.words, chosen.again = words, main
        code = int(chosen.run(chosen))
        sys.stdout.flush()
    except InputError as error:
        return _say(chosen, f"error: {error}", 2)
    except RunError as error:
        return _say(chosen, f"failed: {error}", 3)
    except BrokenPipeError:  # whoever read our output has seen enough
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return code
    except OSError as error:
        return _say(chosen, f"failed: {error}; set that right and run the same command again", 3)
    except KeyboardInterrupt as interrupt:
        if not hasattr(chosen, "run"):
            raise
        with suppress(KeyboardInterrupt), interrupts_put_off():  # whoever is impatient sends more signals
            _say(chosen, f"interrupted; {what_was_told(interrupt) or 'the same command starts again'}", INTERRUPTED)
        return INTERRUPTED
    return code


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Read the words; files may stand between a command's options."""
    chosen = argparse.Namespace()
    while own := next((action for action in parser._actions if action.nargs == argparse.PARSER), None):
        known = own.choices if isinstance(own.choices, dict) else {}
        if not words or words[0] not in known:
            return parser.parse_args(words, chosen)
        vars(chosen).update(parser._defaults)
        parser, words = known[words[0]], words[1:]
    return parser.parse_intermixed_args(words, chosen)


def add_verbs(commands: "argparse._SubParsersAction[Any]") -> None:
    """Describe each command: a module of this room that is not SHARED."""
    for name in (module.name for module in iter_modules(gpuknn.cli.__path__)):
        if name not in SHARED:
            verb = import_module(f"gpuknn.cli.{name}")
            described = {"description": getattr(verb, "DESCRIPTION", verb.__doc__), "epilog": verb.EXAMPLES}
            plain = argparse.RawDescriptionHelpFormatter
            options = commands.add_parser(name.replace("_", "-"), help=verb.HELP, **described, formatter_class=plain)
            verb.add_options(options)
            options.set_defaults(run=verb.run)


def _say(chosen: argparse.Namespace, line: str, code: int) -> int:
    line = " ".join(line.split())
    if getattr(chosen, "log_json", False):
        write_event({"event": "stopped", "line": line, "code": code})
    else:
        sys.stderr.write(f"gpuknn: {line}\n")
    return code
