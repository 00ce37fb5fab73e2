"""Run cases: a process that has loaded the libraries they need, and a fork of it for each case.

``runner.py`` starts ``python -m bad_inputs.server FOLDER TIER`` and sends case ids to it. The process loads neither Ray
nor thread pools, because forks would not inherit their threads. The time of a fork grows with the memory of its
process, so cases that need few libraries have a small process of their own. A case that is not rejected is ended when
it is about to load Ray, start a process or contact another machine.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import gc
import importlib
import importlib.abc
import json
import os
import pkgutil
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distiltune.cluster.app import command_tree

from .case import Case, Outcome
from .goods import copy_good, make_goods
from .runner import TIERS

NOT_REJECTED, NOT_PREPARED = 99, 98  # exit statuses
_MORE_MEMORY = 2 << 30  # bytes that a case may use beyond those of the process that it is forked from
_LARGEST_FILE = 64 << 20
_PR_SET_CHILD_SUBREAPER = 36
_HOME = Path.home()  # libraries that were loaded before the fork still use it


def main() -> None:
    """Load the modules of the tier, then run the case of each line of stdin."""
    from .cases import CASES
    from .controls import CONTROLS

    base, tier = Path(sys.argv[1]), sys.argv[2]
    # Stdout is for outcomes; whatever else is printed goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    command_tree()  # once and not in each fork, since it takes longer than most cases
    _load(TIERS[tier])
    if tier == "training":
        _make_goods(base / "goods")
        _load(json.loads((base / "modules.json").read_text()))
    gc.collect()
    gc.freeze()
    assert "ray" not in sys.modules
    answers.write("ready\n")
    answers.flush()
    by_id = {case.id: case for case in (*CONTROLS, *CASES)}
    for line in sys.stdin:
        place = Path(tempfile.mkdtemp(prefix="case-", dir=base))
        outcome = _run(by_id[json.loads(line)], place, base / "goods")
        answers.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        answers.flush()
        shutil.rmtree(place, ignore_errors=True)


def _make_goods(goods: Path) -> None:
    """Make the good inputs in a process of its own, since making models starts threads; record the modules it loads."""
    before = set(sys.modules)
    process = os.fork()
    if process == 0:
        try:
            make_goods(goods)
            loaded = sorted(name for name in {*sys.modules} - before if not name.startswith("ray"))
            goods.with_name("modules.json").write_text(json.dumps(loaded))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(process, 0)[1] == 0, "the good inputs cannot be made; the log has the traceback"


def _load(modules: Sequence[str]) -> None:
    """Load these modules, and all of ours that need no further third-party package."""
    import distiltune

    for name in modules:
        with suppress(Exception):  # some modules cannot be loaded by themselves
            importlib.import_module(name)
    finder = _OnlyLoaded({name.partition(".")[0] for name in sys.modules})
    sys.meta_path.insert(0, finder)
    for each in pkgutil.walk_packages(distiltune.__path__, "distiltune."):
        if ".tests" not in each.name:
            with suppress(ImportError):
                importlib.import_module(each.name)
    sys.meta_path.remove(finder)


class _OnlyLoaded(importlib.abc.MetaPathFinder):
    """Blocks packages that are not loaded yet, except those of the standard library."""

    def __init__(self, packages: set[str]) -> None:
        self._packages = packages | set(sys.stdlib_module_names)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] not in self._packages:
            raise ModuleNotFoundError(name)


class _NoRay(importlib.abc.MetaPathFinder):
    """Ends a case that loads Ray, and so has accepted its bad input."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "ray":
            _end_as_not_rejected("it loads Ray")


def _run(case: Case, place: Path, goods: Path) -> Outcome:
    """Run a case in a fork; return its outcome, with the files and processes that it left."""
    for name in ("work", "home", "tmp"):
        (place / name).mkdir(parents=True)
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        _in_the_fork(case, place, goods)
    status, cpu_seconds, timed_out = _wait(process, case.within_s)
    seconds = time.monotonic() - began
    left = _end_what_is_left()
    before = _read(place / "before.json")
    after = snapshot(place)
    known = json.loads(before) if before else after
    written = sorted(path for path in {*known, *after} if known.get(path) != after.get(path))
    return Outcome(
        status=status,
        # A short path, so that the length of the test's directory does not count in errors.
        stdout=_read(place / "stdout").replace(str(place), "/case"),
        stderr=_read(place / "stderr").replace(str(place), "/case"),
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        timed_out=timed_out,
        not_rejected=_read(place / "not_rejected") if status == NOT_REJECTED else "",
        written=tuple(written),
        left=tuple(left),
        failed_to_prepare=_read(place / "unprepared") if status == NOT_PREPARED else "",
    )


def snapshot(place: Path) -> dict[str, list[Any]]:
    """Return mode, size and modification time, by path, of everything that a case could write to."""
    found = {}
    for root in (place / "work", place / "home", place / "tmp", place / "state", _HOME):
        for path in _below(root):
            status = path.lstat()
            # Without the times of directories, which change when a file in them is created and removed again.
            times = [] if stat.S_ISDIR(status.st_mode) else [status.st_size, status.st_mtime_ns]
            found[os.path.relpath(path, place)] = [status.st_mode, *times]
    return found


def _below(root: Path) -> Iterator[Path]:
    if not root.exists():
        return
    yield root
    for directory, folders, files in os.walk(root):
        yield from (Path(directory) / name for name in (*folders, *files))


def _in_the_fork(case: Case, place: Path, goods: Path) -> None:
    """Run the command in the fork, and exit with its status."""
    try:
        os.setsid()
        gone = {"RAY_ADDRESS", "DISTILTUNE_STORAGE"}
        own = {"HOME": place / "home", "TMPDIR": place / "tmp", "DISTILTUNE_STATE_DIR": place / "state"}
        for name in gone:
            os.environ.pop(name, None)
        os.environ.update({name: str(value) for name, value in own.items()})
        os.environ.update(case.environment)
        os.chdir(place / "work")
        tempfile.tempdir = str(place / "tmp")  # set here, because tempfile's own search writes a test file
        for name in case.needs:
            copy_good(goods, name)
        if case.damage is not None:
            case.damage()
        (place / "before.json").write_text(json.dumps(snapshot(place)))
        (place / "stdin").write_bytes(case.stdin)
    except BaseException:
        (place / "unprepared").write_text(traceback.format_exc())
        os._exit(NOT_PREPARED)
    _take_streams(place)
    _limit()
    _guard(place)
    status = _command(case)
    os._exit(status)


def _command(case: Case) -> int:
    from distiltune.cluster.cli import main as command_line

    try:
        status = command_line(list(case.command))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    return status & 0xFF


def _take_streams(place: Path) -> None:
    streams = ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY))
    for number, name, flags in streams:
        opened = os.open(place / name, flags | (os.O_CREAT if number else 0), 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["distiltune"]
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _guard(place: Path) -> None:
    """End the process when it loads Ray, starts a process or contacts another machine."""
    global _place
    _place = place
    sys.meta_path.insert(0, _NoRay())

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # The standard library's `platform` runs `uname`.
        if event == "subprocess.Popen" and arguments[0] != "uname":
            _end_as_not_rejected(f"it starts {arguments[1]!r:.80}")
        elif event == "socket.connect" and isinstance(arguments[1], tuple) and not _is_local(arguments[1][0]):
            _end_as_not_rejected(f"it connects to {arguments[1]}")
        elif event == "socket.getaddrinfo" and not _is_local(arguments[0]):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    sys.addaudithook(watch)


_place = Path()


def _is_local(host: Any) -> bool:
    shown = host.decode() if isinstance(host, bytes) else str(host)
    return shown.startswith("127.") or shown in ("localhost", "::1", "None", "", "0.0.0.0")


def _end_as_not_rejected(what: str) -> None:
    (_place / "not_rejected").write_text(what, encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(NOT_REJECTED)


def _wait(process: int, within_s: float) -> tuple[int, float, bool]:
    """Wait for a process; return its exit status, its processor time in s, and whether it had to be killed."""
    descriptor = os.pidfd_open(process)
    try:
        ended, _, _ = select.select([descriptor], [], [], within_s)
    finally:
        os.close(descriptor)
    if not ended:
        os.kill(process, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, not ended


def _end_what_is_left() -> list[str]:
    """End the processes that a case left, which are now children of this one; return their command lines."""
    import psutil

    named = []
    for process in psutil.Process().children(recursive=True):
        try:
            named.append(" ".join(process.cmdline())[:80])
            process.kill()
            process.wait(5)
        except psutil.Error:
            continue
    return named


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""


if __name__ == "__main__":
    main()
