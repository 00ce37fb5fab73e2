"""Invalid storages, for every command that has one: as an option, a key of the specification or a variable."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from distiltune.cluster.specification.resources import StorageConfig

from .case import SECRET, Case
from .commands import STEPS, has, required
from .damages import Damage, both, fifo, folder, link, write
from .schema import commands, key, option

PATH = key(StorageConfig, "path")
# Name -> the storage and the exit status: 2 if it is not a valid storage, 1 if it is valid and does not respond.
BAD: dict[str, tuple[str, int]] = {
    "empty": ("", 2),
    "blank": ("  ", 2),
    "nul": ("a\0b", 2),
    "a-file": ("file", 2),
    "below-a-file": ("file/below", 2),
    "a-pipe": ("pipe", 2),
    "a-loop": ("loop", 2),
    "nobodys-home": ("~nobody-at-all/x", 2),
    "name-too-long": ("x" * 300, 2),
    "too-long": ("x/" * 3000, 2),
    "not-writable": ("/proc/runs", 2),
    "unknown-scheme": ("gopher://host/x", 2),
    "no-bucket": ("s3://", 2),
    "bad-url": ("s3://bu cket/%zz", 2),
    "bad-option": ("s3://bucket/x?colour=red", 2),
    "secret": (f"s3://key:{SECRET}@bucket/x", 2),
    "http-secret": (f"http://user:{SECRET}@127.0.0.1:9/x", 2),
    "unknown-with-secret": (f"gopher://user:{SECRET}@host/x", 2),
    "file-of-a-host": ("file://host/x", 2),
}
# Rejected only by commands that write: a listing of a storage that does not exist is empty, which is not a fault.
ONLY_WRITERS = ("not-writable",)
WRITERS = ("run", "train", "plan")
# `submit` looks for the cluster first; before that it rejects only these.
REFUSED_BEFORE_THE_CLUSTER = ("empty", "blank", "nul", "secret", "unknown-with-secret", "http-secret")
PREPARED: Damage = both(write("file", "text"), fifo("pipe"), link("loop", "loop"), folder("full"))


def _cases() -> Iterator[Case]:
    turn = itertools.cycle(BAD)
    with_storage = [name for name in commands() if has(name, "storage")]
    for name in with_storage:
        spelled = option(name, "storage")
        hows = list(BAD) if name in ("run", "runs") else list(dict.fromkeys(itertools.islice(turn, 8)))
        for how in hows:
            value, status = BAD[how]
            if how in ONLY_WRITERS and name not in WRITERS:
                continue
            if name == "submit" and how not in REFUSED_BEFORE_THE_CLUSTER:
                continue
            steps = (option(name, "overrides"), STEPS) if name == "plan" else ()
            given = (name, *required(name), *steps, f"{spelled}={value}")
            light = name == "submit"
            yield Case(
                f"storage/{name}/{how}",
                given,
                names=((spelled, PATH, "storage"),),
                damage=PREPARED,
                status=status,
                light=light,
                environment={} if how != "empty" else {"DISTILTUNE_STORAGE": "elsewhere"},
            )
    for how, (value, status) in BAD.items():
        named = ((PATH, option("config", "overrides")),)
        given = ("run", option("run", "overrides"), f"{PATH}={value}")
        yield Case(f"storage/key/{how}", given, names=named, damage=PREPARED, status=status)
        if "\0" not in value and how not in (*ONLY_WRITERS, "empty"):
            yield Case(
                f"storage/variable/{how}",
                ("runs",),
                names=((option("runs", "storage"), PATH, "DISTILTUNE_STORAGE", "storage"),),
                damage=PREPARED,
                environment={"DISTILTUNE_STORAGE": value},
                status=status,
            )


def _endpoints() -> Iterator[Case]:
    bad = {
        "empty": "endpoint_override=",
        "words": "endpoint_override=here it is",
        "path": "endpoint_override=127.0.0.1:9000/path",
        "url": "endpoint_override=http://127.0.0.1:9000",
        "port": "endpoint_override=127.0.0.1:99999",
        "scheme": "endpoint_override=127.0.0.1:9000&scheme=gopher",
        "secret": f"endpoint_override=user:{SECRET}@127.0.0.1:9",
        "newline": "endpoint_override=127.0.0.1%0a:9",
        "nul": "endpoint_override=127.0.0.1%00:9",
    }
    for how, options in bad.items():
        given = (option("run", "overrides"), f"{PATH}=s3://bucket/x?{options}")
        yield Case(f"storage/endpoint/{how}", ("run", *given), names=(PATH,))


CASES: tuple[Case, ...] = (*_cases(), *_endpoints())
