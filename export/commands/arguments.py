"""Declare the parameters of a command once, for the parser here and for the help of the whole command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ...errors import InputError


class OpenArtifact(Protocol):
    """Find the folder of an artifact that the user names; it may be in a run."""

    def __call__(self, given: str, storage: str | None) -> Path:
        """Return the folder for the argument DIR and the option ``--storage``."""
        ...


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a command.

    Attributes:
        name: Name of the value that ``Command.run`` receives.
        help: One sentence.
        metavar: Name of an argument, or of the value of an option, in help and messages.
        option: Name on the command line with its dashes; None for a positional argument.
        kind: Type of the value; ``bool`` is a flag.
        least: Smallest whole number accepted.
        most: Largest whole number accepted; None: no limit.
        is_many: Whether an argument takes all remaining values, possibly none.
    """

    name: str
    help: str
    metavar: str | None = None
    option: str | None = None
    kind: type = str
    default: Any = None
    least: int = 0
    most: int | None = None
    is_many: bool = False

    @property
    def is_required(self) -> bool:
        """Whether the command needs a value for it."""
        return self.option is None and not self.is_many


@dataclass(frozen=True)
class Command:
    """A command whose parser needs only the standard library.

    Attributes:
        name: Its name on the command line.
        help: One sentence.
        parameters: Its arguments, in order, and its options.
        run: Called with the values by name and a finder of artifacts; returns the exit status.
    """

    name: str
    help: str
    parameters: tuple[Parameter, ...]
    run: Callable[[dict[str, Any], OpenArtifact], int]

    def parse(self, given: Sequence[str]) -> dict[str, Any]:
        """Return the values of the parameters by name.

        Raises:
            InputError: An option is unknown, an argument is missing, or a value cannot be used.
            SystemExit: Help was requested, and was printed.
        """
        parser = self._parser()
        values, unknown = parser.parse_known_intermixed_args(given)
        if unknown:
            parser.error(f"unknown: {' '.join(unknown)}")
        missing = [
            str(each.metavar)
            for each in self.parameters
            if each.is_required and getattr(values, each.name) is None
        ]
        if missing:
            parser.error(f"missing: {', '.join(missing)}")
        return vars(values)

    def _parser(self) -> argparse.ArgumentParser:
        parser = _Parser(prog=f"distiltune {self.name}", description=self.help, allow_abbrev=False)
        for each in self.parameters:
            if each.option is None:
                nargs = "*" if each.is_many else "?"  # parse reports what is missing after what is unknown
                parser.add_argument(each.name, metavar=each.metavar, help=each.help, nargs=nargs)
            elif each.kind is bool:
                parser.add_argument(each.option, dest=each.name, action="store_true", help=each.help)
            else:
                parser.add_argument(
                    each.option,
                    dest=each.name,
                    metavar=each.metavar,
                    type=_reader(each),
                    default=each.default,
                    help=each.help,
                )
        return parser


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see: {self.prog} --help)")


def _reader(parameter: Parameter) -> Callable[[str], Any]:
    """Return the function that converts and checks the value of an option."""

    def read(given: str) -> Any:
        if parameter.kind is not int:
            return given
        least, most = parameter.least, parameter.most
        wanted = (
            f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
        )
        try:
            value = int(given)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{given!r:.60} given; specify {wanted}") from None
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{given:.60} given; specify {wanted}")
        return value

    return read
