"""A bad input, and how its answer is graded."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECRET = "hunter2-Zq9x7"
"""Planted in every case's environment, and in the addresses that hold one; no answer may show it."""

MOST_CHARACTERS = 400  # of an error that has one fault

# What a command may leave, by its exact path below the case's folder; each with the reason.
ALLOWED_WRITES: dict[str, str] = {
    "state": "the directory of the cluster's state is made private where a lock is to be taken",
    "state/lock": "two commands must not start daemons at once, so the lock comes before the checks",
}

ONE_OF = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One command line that must be refused.

    Attributes:
        id: Its name, ``what/how``; also how it is asked for with ``pytest -k``.
        command: The arguments, without the program's name; relative paths are below the case's own folder.
        names: What the error must name: each a string, or a tuple of which one is enough.
        needs: Good things that are copied into the folder first, see ``goods.py``.
        damage: Makes them bad; called in the folder.
        status: Of the exit: 2 bad input, 1 a damaged run or a storage that failed, 0 only for ``shows_all``.
        most: Characters that the error may have.
        stdin: What the command reads.
        environment: Variables on top of the usual ones.
        within_s: When it must have ended.
        shows_all: Strings that stdout must hold: for a listing that a damaged entry must not hide.
        light: It is refused by its arguments alone, whatever the command would load later.
        heavy: It needs the libraries of a training, although its command alone would not.
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
        """Which libraries its process has loaded before the fork, see ``runner.TIERS``."""
        if self.heavy:
            return "training"
        if self.light or self.command[0] == "config":
            return "light"
        return "training" if self.command[0] in ("run", "train", "plan", "submit", "resume") else "runtime"


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        status: Of the exit; negative: the signal.
        stdout: What it printed.
        stderr: What it complained.
        seconds: From its start to its end.
        cpu_seconds: That it computed.
        timed_out: It was killed.
        went_on: What it was about to do when it should have been refused: load Ray, start a process, ….
        written: Paths that appeared, vanished or changed below the case's folder and the shared good things.
        left: Processes that were still there after its end.
        failed_to_prepare: Traceback of ``damage``; then nothing was run.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float = 0.0
    timed_out: bool = False
    went_on: str = ""
    written: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    failed_to_prepare: str = ""


def faults(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with the answer; empty when all is well."""
    if outcome.failed_to_prepare:
        return [f"the case itself is broken: {outcome.failed_to_prepare}"]
    found = _of_the_process(case, outcome)
    found += _of_a_listing(case, outcome) if case.shows_all else _of_the_error(case, outcome)
    said = outcome.stdout + outcome.stderr
    if SECRET in said:
        found.append("shows the secret")
    if "Traceback" in said:
        found.append("shows a traceback")
    if any(unicodedata.category(each) == "Cc" for each in said if each not in "\n\t"):
        found.append("sends control characters to the terminal")
    return found


def _of_the_process(case: Case, outcome: Outcome) -> list[str]:
    found = []
    if outcome.timed_out:
        found.append(f"still ran after {case.within_s:g} s")
    elif outcome.went_on:
        found.append(f"was not refused: {outcome.went_on}")
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
        found.append("an exception of a library, not one of ours")
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
