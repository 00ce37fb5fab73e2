"""A bad input, and how the outcome of a command with it is graded."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECRET = "hunter2-Zq9x7"
"""A secret in every case's environment, and in some addresses; no output may show it."""

MOST_CHARACTERS = 400  # of an error about one fault

# Exact paths below the case's folder that a command may leave, each with the reason.
ALLOWED_WRITES: dict[str, str] = {
    "state": "the directory of the cluster's state is made private before the lock is taken",
    "state/lock": "two commands must not start daemons at once, so the lock is taken before the checks",
}

ONE_OF = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One command line that must be rejected.

    Attributes:
        id: Name of the case, ``what/how``, which ``pytest -k`` selects.
        command: The arguments, without the program's name; relative paths are below the case's own folder.
        names: What the error must name: each a string, or a tuple of strings of which one suffices.
        needs: Good inputs that are copied into the folder first, see ``goods.py``.
        damage: Damages them; called in the folder.
        status: Exit status: 2 for bad input, 1 for a damaged run or a storage that failed, 0 only with ``shows_all``.
        most: Maximum number of characters of the error.
        stdin: Input of the command.
        environment: Variables in addition to the usual ones.
        within_s: Time limit.
        shows_all: Strings that stdout must contain, for a listing that must not omit entries because one is damaged.
        light: Whether its arguments alone suffice to reject it, whatever the command would load later.
        heavy: Whether it needs the libraries of training, although its command alone does not.
    """

    id: str
    command: tuple[str, ...]
    names: tuple[str | ONE_OF, ...] = ()
    needs: tuple[str, ...] = ()
    damage: Callable[[], object] | None = None
    status: int = 2
    most: int = MOST_CHARACTERS
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    within_s: float = 8.0
    shows_all: tuple[str, ...] = ()
    light: bool = False
    heavy: bool = False

    @property
    def tier(self) -> str:
        """Name of the libraries that its process has loaded before the fork, see ``runner.TIERS``."""
        if self.heavy:
            return "training"
        if self.light or self.command[0] == "config":
            return "light"
        return "training" if self.command[0] in ("run", "train", "plan", "submit", "resume") else "runtime"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    Attributes:
        status: Exit status; negative: the signal that ended it.
        stdout: Its output.
        stderr: Its error.
        seconds: Duration.
        cpu_seconds: Processor time.
        timed_out: Whether it was killed after its time limit.
        not_rejected: What it began to do instead of being rejected: load Ray, start a process, ….
        written: Paths below the case's folder and its home that were created, removed or changed.
        left: Processes that still ran after its end.
        failed_to_prepare: Traceback of ``damage``, after which the command was not run.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float = 0.0
    timed_out: bool = False
    not_rejected: str = ""
    written: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    failed_to_prepare: str = ""


def faults(case: Case, outcome: Outcome) -> list[str]:
    """Return what is wrong with the outcome; empty if nothing is."""
    if outcome.failed_to_prepare:
        return [f"the case itself is broken: {outcome.failed_to_prepare}"]
    found = _of_the_process(case, outcome)
    found += _of_a_listing(case, outcome) if case.shows_all else _of_the_error(case, outcome)
    output = outcome.stdout + outcome.stderr
    if SECRET in output:
        found.append("shows the secret")
    if "Traceback" in output:
        found.append("shows a traceback")
    if any(unicodedata.category(each) == "Cc" for each in output if each not in "\n\t"):
        found.append("sends control characters to the terminal")
    return found


def _of_the_process(case: Case, outcome: Outcome) -> list[str]:
    found = []
    if outcome.timed_out:
        found.append(f"still ran after {case.within_s:g} s")
    elif outcome.not_rejected:
        found.append(f"was not rejected: {outcome.not_rejected}")
    elif outcome.status != case.status:
        found.append(f"status {outcome.status}, not {case.status}")
    written = [path for path in outcome.written if path not in ALLOWED_WRITES]
    if written:
        found.append(f"wrote {', '.join(written[:5])}")
    if outcome.left:
        found.append(f"left processes: {', '.join(outcome.left)}")
    return found


def _of_the_error(case: Case, outcome: Outcome) -> list[str]:
    found = []
    if outcome.stdout:
        found.append(f"stdout has {outcome.stdout[:60]!r}")
    lines = outcome.stderr.splitlines()
    if len([line for line in lines if line.strip()]) != 1 or len(lines) != 1:
        found.append(f"{len(lines)} lines on stderr, not one")
    if not outcome.stderr.startswith("error: "):
        found.append("does not begin with 'error: '")
    if outcome.stderr.startswith("error: unexpected "):
        found.append("is an exception of a library, not one of ours")
    if len(outcome.stderr.rstrip("\n")) > case.most:
        found.append(f"{len(outcome.stderr)} characters, more than {case.most}")
    for wanted in case.names:
        accepted = (wanted,) if isinstance(wanted, str) else wanted
        if not any(name in outcome.stderr for name in accepted):
            found.append(f"does not name {' or '.join(accepted)}")
    return found


def _of_a_listing(case: Case, outcome: Outcome) -> list[str]:
    return [f"does not list {wanted}" for wanted in case.shows_all if wanted not in outcome.stdout]


def in_folder(*parts: str) -> Path:
    """A path below the folder that ``damage`` is called in."""
    return Path(*parts)
