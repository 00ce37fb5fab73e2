"""Damaged records of a run: a command about that run reports them, and a listing still has every run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from .case import Case
from .damages import ABSENT, Damage, cut, edit_json, fifo, folder, link, remove, write
from .goods import OTHER_RUN, RUN, STORAGE, UNFINISHED
from .schema import option

AT = f"{STORAGE}/runs"
NOT_JSON: dict[str, bytes | str] = {
    "empty": "",
    "no-json": "{",
    "list": "[]",
    "word": '"word"',
    "number": "7",
    "null": "null",
    "binary": bytes(range(256)),
    "deep": "[" * 100_000,
    "nothing-in-it": "{}",
    "not-a-number": '{"at": NaN}',
    "utf-16": "{}".encode("utf-16"),
}
# Record -> the commands that read it.
RECORDS = {
    "run.json": ("show", "status", "show-json", "status-json"),
    "stages/search.json": ("show", "status", "show-json", "status-json"),
    "stages/data.json": ("status", "status-json"),
    "stages/gate.json": ("show", "status", "show-json", "status-json"),
    "submission.json": ("show", "status", "show-json", "status-json"),
    "lease.json": ("status", "status-json"),
}
# Name -> record, key, and a value of a type that is never written there.
VALUES: dict[str, tuple[str, str, Any]] = {
    "state-unknown": ("run.json", "state", "dancing"),
    "state-number": ("run.json", "state", 7),
    "state-list": ("run.json", "state", ["finished"]),
    "created-number": ("run.json", "created", 7),
    "created-word": ("run.json", "created", "yesterday"),
    "created-long": ("run.json", "created", "y" * 5000),
    "ended-word": ("run.json", "ended", "tomorrow"),
    "error-number": ("run.json", "error", {"a": 1}),
    "stage-state-unknown": ("stages/search.json", "state", "dancing"),
    "stage-no-state": ("stages/search.json", "state", ABSENT),
    "stage-no-start": ("stages/search.json", "started", ABSENT),
    "stage-start-number": ("stages/search.json", "started", 7),
    "stage-seconds-word": ("stages/search.json", "seconds", "many"),
    "stage-result-list": ("stages/search.json", "result", [1]),
    "stage-best-word": ("stages/search.json", "result.best", "word"),
    "stage-trials-word": ("stages/search.json", "result.trials", "word"),
    "stage-variants-word": ("stages/gate.json", "result.variants", "word"),
    "stage-variant-numbers": ("stages/gate.json", "result.variants", [1, 2]),
    "stage-latency-word": ("stages/gate.json", "result.variants.0.latency_ms", "fast"),
    "stage-baselines-word": ("stages/gate.json", "result.against_baselines", "word"),
    "stage-baseline-number": ("stages/gate.json", "result.against_baselines", [{"text": 7, "verdict": None}]),
    "stage-chosen-number": ("stages/gate.json", "result.chosen", 7),
}
LOOKING = {
    "show": ("show", RUN),
    "status": ("status", RUN),
    "show-json": ("show", RUN, option("show", "as_json")),
    "status-json": ("status", RUN, option("status", "as_json")),
}
# The same for records that are read only while a run is running.
AT_WORK: dict[str, tuple[str, str, Any]] = {
    "lease-at-word": ("lease.json", "at", "now"),
    "lease-started-word": ("lease.json", "process_started", "now"),
    "lease-pid-word": ("lease.json", "pid", "one"),
    "lease-list": ("lease.json", "host", [1]),
    "lease-nothing": ("lease.json", "at", ABSENT),
}


def _whole_records() -> Iterator[Case]:
    for record, commands in RECORDS.items():
        turn = itertools.cycle(commands)
        # A lease is read only while a run is running.
        run = UNFINISHED if record == "lease.json" else RUN
        path = f"{AT}/{run}/{record}"
        damages: dict[str, Damage] = {how: write(path, content) for how, content in NOT_JSON.items()}
        damages |= {"folder": folder(path), "pipe": fifo(path), "endless": link(path, "/dev/zero")}
        for how, damage in damages.items():
            yield _looked_at(f"record/{record}/{how}", LOOKING[next(turn)], record, damage, run)


def _looked_at(name: str, command: tuple[str, ...], record: str, damage: Damage, run: str = RUN) -> Case:
    given = tuple(run if each == RUN else each for each in command)
    return Case(name, given, names=(record, run), needs=(STORAGE,), damage=damage, status=1)


def _single_values() -> Iterator[Case]:
    for how, (record, name, value) in VALUES.items():
        damage = edit_json(f"{AT}/{RUN}/{record}", name, value)
        looking = "show" if record == "stages/gate.json" else next(iter(LOOKING))
        yield _looked_at(f"record-value/{how}/{looking}", LOOKING[looking], record, damage)
        if record == "run.json":
            yield _looked_at(f"record-value/{how}/status", LOOKING["status"], record, damage)
    for how, (record, name, value) in AT_WORK.items():
        damage = edit_json(f"{AT}/{UNFINISHED}/{record}", name, value)
        yield _looked_at(f"record-value/{how}", LOOKING["status"], record, damage, UNFINISHED)


def _listings() -> Iterator[Case]:
    for how, content in NOT_JSON.items():
        damage = write(f"{AT}/{RUN}/run.json", content)
        for name, options in (("runs", ()), ("runs-json", (option("runs", "as_json"),))):
            yield Case(
                f"listing/{name}/{how}",
                ("runs", *options),
                needs=(STORAGE,),
                damage=damage,
                status=0,
                shows_all=(RUN, OTHER_RUN, UNFINISHED),
            )
    for how, (record, name, value) in VALUES.items():
        damage = edit_json(f"{AT}/{RUN}/{record}", name, value)
        shows = (RUN, OTHER_RUN, UNFINISHED)
        yield Case(
            f"listing/value/{how}", ("runs",), needs=(STORAGE,), damage=damage, status=0, shows_all=shows
        )
    for name in ("show", "status"):
        damage = write(f"{AT}/{OTHER_RUN}/run.json", "{")
        given = (name, RUN)
        yield Case(
            f"listing/{name}-of-another", given, needs=(STORAGE,), damage=damage, status=0, shows_all=(RUN,)
        )


def _working_on_it() -> Iterator[Case]:
    job = f"{AT}/{UNFINISHED}/job.json"
    for how, content in NOT_JSON.items():
        if how in ("nothing-in-it", "null", "not-a-number"):
            continue
        yield Case(
            f"resume/job-{how}",
            ("resume", UNFINISHED),
            names=("job.json", UNFINISHED),
            needs=(STORAGE, "data", "checkpoint"),
            damage=write(job, content),
            status=1,
        )
    values: dict[str, tuple[str, Any]] = {
        "unknown-key": ("training.no_such_key", 1),
        "bad-value": ("training.alpha", 7),
        "section-a-word": ("training", "word"),
    }
    for how, (name, value) in values.items():
        yield Case(
            f"resume/job-{how}",
            ("resume", UNFINISHED),
            names=("job.json", name),
            needs=(STORAGE, "data", "checkpoint"),
            damage=edit_json(job, name, value),
            status=1,
        )
    report, artifact = f"{AT}/{RUN}/report", f"{AT}/{RUN}/artifact"
    reports: dict[str, Damage] = {
        "no-text": remove(f"{report}/report.md"),
        "folder": folder(f"{report}/report.md"),
        "latin-1": write(f"{report}/report.md", b"caf\xe9"),
        "pipe": fifo(f"{report}/report.md"),
        "endless": link(f"{report}/report.md", "/dev/zero"),
    }
    for how, damage in reports.items():
        yield Case(
            f"report/{how}", ("report", RUN), names=("report.md",), needs=(STORAGE,), damage=damage, status=1
        )
    missing: dict[str, tuple[tuple[str, ...], Damage]] = {
        "report/none": (("report", RUN), remove(report)),
        "report/a-file": (("report", RUN), write(report, "text")),
        "pull/none": (("pull", RUN, option("pull", "to"), "pulled"), remove(artifact)),
        "pull/a-file": (("pull", RUN, option("pull", "to"), "pulled"), write(artifact, "text")),
        "pull/not-yet": (("pull", UNFINISHED, option("pull", "to"), "pulled"), lambda: None),
        "report/not-yet": (("report", UNFINISHED), lambda: None),
        "choose/not-yet": (("choose", UNFINISHED, "1"), lambda: None),
    }
    for name, (given, damage) in missing.items():
        yield Case(name, given, names=(given[1],), needs=(STORAGE,), damage=damage)
    logs: dict[str, Damage] = {
        "emptied": folder(f"{AT}/{RUN}/logs/run"),
        "pipe": fifo(f"{AT}/{RUN}/logs/run"),
        "a-file": write(f"{AT}/{RUN}/logs", "text"),
        "loop": link(f"{AT}/{RUN}/logs", "logs"),
    }
    for how, damage in logs.items():
        yield Case(f"logs/{how}", ("logs", RUN), names=("logs",), needs=(STORAGE,), damage=damage, status=1)
    search = f"{AT}/{RUN}/stages/search.json"
    for how, value in {
        "word": "word",
        "null": None,
        "numbers": [1],
        "no-checkpoints": [{"trial_id": "1"}],
    }.items():
        yield Case(
            f"choose/trials-{how}",
            ("choose", RUN, "1"),
            names=("search.json",),
            needs=(STORAGE,),
            damage=edit_json(search, "result.trials", value),
            status=1,
        )
    for how, damage in {"cut": cut(f"{AT}/{RUN}/run.json"), "folder": folder(f"{AT}/{RUN}/run.json")}.items():
        for name in ("stop", "resume", "tensorboard", "logs", "report"):
            yield _looked_at(f"{name}/run-{how}", (name, RUN), "run.json", damage)


CASES: tuple[Case, ...] = (*_whole_records(), *_single_values(), *_listings(), *_working_on_it())
