"""Bad arguments for every command, made from the declared parameters of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from distiltune.cluster.specification.config import PlanConfig
from distiltune.training.distillation.config import TrainingConfig

from .case import SECRET, Case
from .damages import write
from .goods import RUN, STORAGE
from .schema import commands, is_option, key, label, option

# Good values of required arguments, so that only the bad one is at fault.
GOOD_ARGUMENTS = {
    "run_id": RUN,
    "run_ids": RUN,
    "directory": "artifact",
    "head": "127.0.0.1:1",
    "trial": "0007",
    "to": "pulled/copy",  # a valid folder for `pull` and a valid repository for `push`
    "data": "data/test.csv",
    "texts": "data/test.csv",  # of `label`; the next two are its options
    "teacher": "checkpoint",
    "out": "labels.csv",
}


def required(name: str, without: str = "") -> list[str]:
    """Return the required arguments of a command, except one parameter."""
    given: list[str] = []
    for each in commands()[name].params:
        if each.required and each.name != without:
            value = GOOD_ARGUMENTS[each.name]
            given += [label(each), value] if is_option(each) else [value]
    return given


def has(name: str, parameter: str) -> bool:
    """Return whether a command has a parameter."""
    return any(each.name == parameter for each in commands()[name].params)


def _of_every_command() -> Iterator[Case]:
    for name, command in commands().items():
        words = tuple(name.split())
        yield Case(f"command/{name}/unknown-option", (*words, "--nonsense"), names=("--nonsense",))
        yield Case(f"command/{name}/surplus", (*words, *required(name), *_filled(command)), names=(SURPLUS,))
        for each in command.params:
            if each.required:
                given = (*words, *required(name, each.name))
                # Without one argument the next one takes its place, so the error is about the last.
                missing = label(each) if is_option(each) else _arguments(command)[-1]
                yield Case(f"command/{name}/without-{each.name}", given, names=(missing,))


SURPLUS = "surplus-argument"


def _arguments(command: Any) -> list[str]:
    return [label(each) for each in command.params if each.required and not is_option(each)]


def _filled(command: Any) -> list[str]:
    """Return a value for each optional argument of a command, and one more."""
    optional = [each for each in command.params if not is_option(each) and not each.required]
    if any(each.nargs == -1 for each in optional):
        return [f"--{SURPLUS}"]
    return [*["x" for _ in optional], SURPLUS]


def _of_every_option() -> Iterator[Case]:
    for name, command in commands().items():
        words, needed = tuple(name.split()), required(name)
        for each in command.params:
            if not is_option(each) or each.name == "help":
                continue
            spelled = label(each)
            for how, value in _bad_values(each):
                given = (*words, *required(name, each.name), f"{spelled}={value}")
                if how == "huge" and name == "cluster join":  # cannot be rejected before the head answers
                    continue
                needs = ("artifact",) if how in ("huge", "infinite") and has(name, "directory") else ()
                yield Case(f"option/{name}/{each.name}-{how}", given, names=(spelled,), needs=needs)
            if not each.is_flag:
                yield Case(
                    f"option/{name}/{each.name}-no-value", (*words, *needed, spelled), names=(spelled,)
                )


def _bad_values(parameter: Any) -> Iterator[tuple[str, str]]:
    kind = parameter.type_descriptor.annotation
    if parameter.is_flag:
        if parameter.name == "as_json":
            yield "with-value", "yes"
        return
    if kind not in (int, float):
        return
    yield "word", "many"
    if kind is int:
        yield "fraction", "1.5"
    lowest, highest = parameter.min, parameter.max
    yield "below", str(-1 if lowest is None else lowest - 1)
    yield "huge", str(10**30 if highest is None else highest + 1)
    if kind is float:
        yield "not-a-number", "nan"
        yield "infinite", "inf"


def _by_hand() -> Iterator[Case]:
    yield Case("command/nonsense", ("nonsense",), names=("nonsense",))
    yield Case("command/cluster-nonsense", ("cluster", "nonsense"), names=("nonsense",))
    yield Case("command/long-word", ("x" * 5000,), names=("x" * 10,))
    yield Case("command/newline", ("non\nsense",), names=("non",))
    yield Case("command/terminal-codes", ("\x1b[31mred",), names=("red",))
    yield Case("command/surrogate", ("show", "a\udcffb"), names=("udcff",))
    for name in commands():
        if has(name, "run_id") and option(name, "run_id").startswith("--"):
            for how, value in BAD_RUN_IDS.items():
                steps = (option(name, "overrides"), STEPS) if name == "plan" else ()
                given = (name, *steps, f"{option(name, 'run_id')}={value}")
                yield Case(f"option/{name}/run-id-{how}", given, names=(option(name, "run_id"),))
        elif has(name, "run_id"):
            every = {**BAD_RUN_IDS, "missing": "no-such-run"}
            for how in every if name in ("show", "pull") else ("missing", "above", "huge"):
                given = (name, *_with_run(name, every[how]))
                yield Case(f"argument/{name}/run-{how}", given, names=((option(name, "run_id"), "no run"),))
    both = ("logs", RUN, option("logs", "trial"), "1", option("logs", "stage"), "search")
    yield Case("logs/trial-and-stage", both, names=(option("logs", "trial"),), needs=(STORAGE,))
    follow_json = ("logs", RUN, option("logs", "keep_following"), option("logs", "as_json"))
    yield Case("logs/follow-and-json", follow_json, names=(option("logs", "as_json"),), needs=(STORAGE,))
    for parameter in ("stage", "trial"):
        for how, value in BAD_PARTS.items():
            given = ("logs", RUN, f"{option('logs', parameter)}={value}")
            yield Case(f"logs/{parameter}-{how}", given, names=(option("logs", parameter),), needs=(STORAGE,))
    for how, value in BAD_PARTS.items():
        given = ("choose", RUN, "--", value)
        yield Case(
            f"choose/trial-{how}",
            given,
            names=((option("choose", "trial"), value.partition("\0")[0][:20]),),
            needs=(STORAGE,),
        )
    taken = ("pull", RUN, option("pull", "to"))
    yield Case(
        "pull/into-a-file", (*taken, "job.yaml"), names=(option("pull", "to"),), needs=(STORAGE, "job.yaml")
    )
    yield Case(
        "pull/below-a-file",
        (*taken, "job.yaml/x"),
        names=(option("pull", "to"),),
        needs=(STORAGE, "job.yaml"),
    )
    yield Case(
        "pull/into-a-full-folder", (*taken, "data"), names=(option("pull", "to"),), needs=(STORAGE, "data")
    )
    own = f"{STORAGE}/runs/{RUN}/artifact"
    for how, to in {
        "own-source": f"{own}/copy",
        "source-itself": own,
    }.items():
        yield Case(f"pull/into-{how}", (*taken, to), names=(option("pull", "to"),), needs=(STORAGE,))
    yield Case("pull/into-proc", (*taken, "/proc/x/y"), names=(option("pull", "to"),), needs=(STORAGE,))
    yield Case("pull/empty", (*taken, ""), names=(option("pull", "to"),), needs=(STORAGE,))
    yield Case(
        "pull/nobodys-home", (*taken, "~nobody-at-all/x"), names=(option("pull", "to"),), needs=(STORAGE,)
    )
    yield Case("pull/nul", (*taken, "a\0b"), names=(option("pull", "to"),), needs=(STORAGE,))
    yield Case("pull/too-long", (*taken, "x" * 5000), names=(option("pull", "to"),), needs=(STORAGE,))
    yield from _of_the_hub()


def _of_the_hub() -> Iterator[Case]:
    to = option("push", "to")
    for how, name in BAD_REPOSITORIES.items():
        pulled = ("pull", f"hf://{name}", option("pull", "to"), "pulled")
        yield Case(f"pull/hub-{how}", pulled, names=(option("pull", "run_id"),))
        yield Case(f"push/to-{how}", ("push", "artifact", to, name), names=(to,), needs=("artifact",))
    repository = ("ada/x", option("push", "revision"), "a b")
    yield Case("push/no-branch", ("push", "artifact", to, *repository), names=(repository[1],))
    damaged = {"manifest.json": "{", "model.onnx": "x", "tokenizer.json": ""}
    for name, content in damaged.items():
        yield Case(
            f"push/damaged-{name}",
            ("push", "artifact", to, "ada/x"),
            names=(name,),
            needs=("artifact",),
            damage=write(f"artifact/{name}", content),
        )
    yield Case("pull/hub-offline", ("pull", "hf://ada/x", to, "pulled"), names=("HF_HUB_OFFLINE",))
    offline = ("push", "artifact", to, "ada/x")
    yield Case("push/offline", offline, names=("HF_HUB_OFFLINE",), needs=("artifact",))
    for name in ("predict", "verify", "benchmark", "evaluate"):
        more = {"predict": ("a text",), "evaluate": ("data/test.csv",)}.get(name, ())
        yield Case(f"{name}/of-the-hub", (name, "hf://ada/x", *more), names=("distiltune pull hf://ada/x",))


STEPS = f"{key(PlanConfig, 'steps')}=[{{key: {key(TrainingConfig, 'alpha')}, values: [0.25]}}]"
BAD_RUN_IDS = {
    "empty": "",
    "slash": "a/b",
    "above": "../x",
    "space": "a b",
    "long": "x" * 300,
    "huge": "x" * 5000,
    "nul": "a\0b",
    "newline": "a\nb",
    "dot": ".",
}
BAD_REPOSITORIES = {
    "empty": "",
    "one-word": "model",
    "three-words": "a/b/c",
    "above": "../x",
    "url": f"https://user:{SECRET}@127.0.0.1:9/a/b",
    "space": "a/b c",
    "newline": "a/b\nc",
    "nul": "a/b\0c",
    "huge": "a/" + "x" * 5000,
    "no-revision": "a/b@",
    "revision-above": "a/b@../x",
}
BAD_PARTS = {
    "empty": "",
    "unknown": "nonsense",
    "above": "search/../../../second/logs/run",
    "absolute": "/etc/passwd",
    "nul": "search/a\0b",
    "huge": "x" * 5000,
}


def _with_run(name: str, value: str) -> list[str]:
    """Return the required arguments with this run, after ``--`` so that a dash does not begin an option."""
    options: list[str] = []
    arguments: list[str] = []
    for each in commands()[name].params:
        if each.required and not is_option(each):
            arguments.append(value if each.name == "run_id" else GOOD_ARGUMENTS[each.name])
        elif each.required:
            options += [label(each), GOOD_ARGUMENTS[each.name]]
    return [*options, "--", *arguments]


def _light(case: Case) -> Case:
    """Return the case marked as light, unless it needs good inputs."""
    return case if case.needs else replace(case, light=True)


CASES: tuple[Case, ...] = (*map(_light, (*_of_every_command(), *_of_every_option())), *_by_hand())
