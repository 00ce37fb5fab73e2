"""The measuring process: run each part of a forecast in a child process, and print one JSON value per line.

Importing the libraries takes longer than most measurements, so this process imports them once, and forks the children
before it computes anything. They run at the niceness of Ray's workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ....errors import RunFailedError, first_line
from ....export.benchmark.memory import peak_memory_mb
from ....export.benchmark.processes import end_with_parent
from ....training.models.passes import tokens_of_passes
from ...remote.baselines import baseline_specs
from . import baseline_part, export_parts, parts
from .request import TEACHER, Request, points_of, teacher_part
from .stopwatch import waiting_share

_NICENESS = "RAY_worker_niceness", "15"  # Ray's own variable and its default
_PATIENCE_S = 120.0  # of a process that waits for the others to start measuring
_fork = multiprocessing.get_context("fork")


def measure(request: Request, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure the parts that a request names.

    Args:
        request: The request.
        report: Called with a description of the next measurement.

    Returns:
        By part: the result of its function; ``peak_mib``, the peak memory of its process; and ``waiting``, the share of
        its time that it waited for other processes. ``search`` has a list ``points`` with the results of each process.
        ``lengths`` are the tokens of each training text, by kind.
    """
    with tokens_of_passes(request.config.training.batch_tokens):  # inherited by the children
        return _measured(request, report)


def _measured(request: Request, report: Callable[[str], None]) -> dict[str, Any]:
    points = points_of(request.config.search.space)
    found: dict[str, Any] = {}
    if request.parts & {"teacher", "student", "search"}:
        report("steps of the teacher")
        found["teacher"] = _alone(parts.measure_teacher_part, request, lambda: None)
        teacher = request.config.teacher
        for number, member in enumerate(teacher.members) if teacher.are_different else ():
            if number and member.logits is None:
                report(f"steps of teacher {number + 1}")
                part = _alone(parts.measure_teacher_part, request, lambda: None, number)
                found[teacher_part(number)] = part
        report("building the student")
        found["student"] = _alone(parts.measure_student_part, request, points)
        found["lengths"] = found["student"].pop("lengths")
        if request.config.student.is_pretrained:
            report("steps of the student's pretraining")
            found["pretraining"] = _alone(parts.measure_pretraining_part, request, points, lambda: None)
    if "search" in request.parts:
        count = request.places.num_trials * request.places.num_processes
        report("steps of a trial" if count == 1 else f"steps of {count} trials side by side")
        sent = [(request, points, number) for number in range(count)]
        several = _in_processes(parts.measure_trial_part, sent)
        found["search"] = {
            "points": [each["result"] for each in several],
            "peak_mib": max(each["peak_mib"] for each in several),
            "waiting": max(each["waiting"] for each in several),
        }
    if "export" in request.parts:
        report("export of a graph")
        found["export"] = _alone(export_parts.measure_export_part, request, points)
        report("latency of the models")
        for name in (TEACHER, "student", export_parts.PLAIN):
            found[f"latency of {name}"] = _alone(export_parts.measure_latency_part, request, points, name)
        for spec in baseline_specs(request.config):
            report(f"training of {spec.name}")
            with suppress(RunFailedError):  # the job will skip it as well
                name = f"latency of {spec.name}"
                found[name] = _alone(baseline_part.measure_baseline_part, request, spec.name)
    return found


def _alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call a function in a process of its own; return its result with ``peak_mib`` and ``waiting``."""
    [answer] = _in_processes(function, [arguments], waits=False)
    return {**answer["result"], "peak_mib": answer["peak_mib"], "waiting": answer["waiting"]}


def _in_processes(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], *, waits: bool = True
) -> list[dict[str, Any]]:
    """Call a function at the same time in several processes, one for each tuple of arguments.

    Args:
        function: The function.
        calls: Arguments of each call.
        waits: Whether the function takes, as an additional last argument, a function that waits for all processes.

    Returns:
        ``result``, ``peak_mib`` and ``waiting`` (see ``waiting_share``) of each call, in the order in which they end.

    Raises:
        RunFailedError: One of the processes failed; the others are killed.
    """
    barrier = _fork.Barrier(len(calls))
    children, answers = {}, []
    for arguments in calls:
        receiver, sender = _fork.Pipe(duplex=False)
        more = (partial(barrier.wait, _PATIENCE_S),) if waits else ()
        child = _fork.Process(target=_child, args=(sender, function, (*arguments, *more)))
        child.start()
        sender.close()  # so that the receiver sees the end of the child
        children[receiver] = child
    pending = list(children)
    while pending:
        for receiver in wait(pending):
            assert isinstance(receiver, Connection)
            pending.remove(receiver)
            answers.append(_answer(receiver, children[receiver]))
            if "error" in answers[-1]:
                for each in children.values():
                    each.kill()
                raise RunFailedError(answers[-1]["error"])
    for child in children.values():
        child.join()
    return answers


def _answer(receiver: Connection, child: Any) -> dict[str, Any]:
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        reason = (
            "it ran out of memory, or was killed" if child.exitcode == -signal.SIGKILL else child.exitcode
        )
        return {"error": f"a measuring process ended: {reason}"}


def _child(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    with suppress(OSError, ValueError):
        os.nice(int(os.environ.get(*_NICENESS)) - os.nice(0))
    try:
        result = function(*arguments)
        sender.send({"result": result, "peak_mib": peak_memory_mb(), "waiting": waiting_share()})
    except BaseException as error:  # reported by the parent
        sender.send({"error": f"{type(error).__name__}: {first_line(error)}"})


def main() -> None:
    """Measure the request in the pickle file that is the first argument; only the parent process writes that file."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    request: Request = pickle.loads(Path(sys.argv[1]).read_bytes())
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep the output of libraries out of the answers

    def send(value: dict[str, Any]) -> None:
        stdout.write(json.dumps(value) + "\n")
        stdout.flush()

    send({"import_s": time.process_time()})
    try:
        send({"result": measure(request, lambda text: send({"progress": text}))})
    except RunFailedError as error:
        send({"error": str(error)})


if __name__ == "__main__":
    main()
