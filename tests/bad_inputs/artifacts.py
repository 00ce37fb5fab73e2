"""Damaged artifacts, and texts that cannot be classified."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import SECRET, Case
from .damages import (
    ABSENT,
    Damage,
    cut,
    edit_json,
    fifo,
    flip,
    folder,
    link,
    moved_behind_link,
    remove,
    write,
)
from .goods import RUN, STORAGE, TEXT
from .schema import option

MODEL, TOKENIZER, CONFIG = "model.onnx", "tokenizer.json", "distiltune.json"
MANIFEST, CARD = "manifest.json", "README.md"
PULLED = f"{STORAGE}/runs/{RUN}/artifact"


def resealed(damage: Damage, *names: str, folder_: str = "artifact") -> Damage:
    """Apply damage and update the hashes of the files ``names`` in the manifest, so that they verify."""

    def after() -> None:
        damage()
        path = Path(folder_, MANIFEST)
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name in names:
            content = Path(folder_, name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return after


def graph(change: Callable[[Any], object]) -> Damage:
    """Change the graph of ``model.onnx``, and its hash in the manifest."""

    def damage() -> None:
        import onnx

        model = onnx.load_model(f"artifact/{MODEL}")
        change(model.graph)
        onnx.save_model(model, f"artifact/{MODEL}")

    return resealed(damage, MODEL)


def _fill(name: str, value: float) -> Callable[[Any], object]:
    def change(found: Any) -> None:
        import numpy as np
        from onnx import numpy_helper

        for each in found.initializer:
            if each.name == name:
                array = np.full_like(numpy_helper.to_array(each), value)
                each.CopyFrom(numpy_helper.from_array(array, name))

    return change


def _fewer_outputs(found: Any) -> None:
    from onnx import numpy_helper

    for each in found.initializer:
        if each.name == "outer":
            each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each)[:, :2].copy(), "outer"))
    found.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def _set(target: Any, name: str, value: Any) -> None:
    setattr(target, name, value)


def _kept_outside(found: Any) -> None:
    """Refer to an external file for the weights."""
    from onnx.external_data_helper import set_external_data

    tensor = next(each for each in found.initializer if each.name == "table")
    set_external_data(tensor, location="../../../../../../etc/passwd")
    tensor.ClearField("raw_data")


def of_files(at: str) -> Iterator[tuple[str, str, Damage]]:
    """Yield damages of each file: name of the case, name of the file, damage."""
    for name in (MODEL, TOKENIZER, CONFIG, MANIFEST, CARD):
        path = f"{at}/{name}"
        yield f"{name}/missing", name, remove(path)
        yield f"{name}/cut", name, cut(path)
        yield f"{name}/changed", name, flip(path)
        yield f"{name}/empty", name, write(path, "")
        yield f"{name}/folder", name, folder(path)
        if at == "artifact" and name != MANIFEST:  # `pull` copies the target of the link, and verifies it
            yield f"{name}/link", name, moved_behind_link(path)
        yield f"{name}/pipe", name, fifo(path)
        yield f"{name}/dangling", name, link(path, "nowhere")
        yield f"{name}/endless", name, link(path, "/dev/zero")


OTHER = f"{MODEL}.data"
MANIFESTS: dict[str, tuple[str, Damage]] = {
    "no-json": (MANIFEST, write(f"artifact/{MANIFEST}", "{")),
    "list": (MANIFEST, write(f"artifact/{MANIFEST}", "[]")),
    "null": (MANIFEST, write(f"artifact/{MANIFEST}", "null")),
    "word": (MANIFEST, write(f"artifact/{MANIFEST}", '"word"')),
    "binary": (MANIFEST, write(f"artifact/{MANIFEST}", bytes(range(256)))),
    "deep": (MANIFEST, write(f"artifact/{MANIFEST}", "[" * 100_000)),
    "no-files": (MANIFEST, edit_json(f"artifact/{MANIFEST}", "files", ABSENT)),
    "files-a-list": (MANIFEST, edit_json(f"artifact/{MANIFEST}", "files", ["model.onnx"])),
    "files-empty": (MODEL, edit_json(f"artifact/{MANIFEST}", "files", {})),
    "files-null": (MANIFEST, edit_json(f"artifact/{MANIFEST}", "files", None)),
    "entry-a-word": (MANIFEST, edit_json(f"artifact/{MANIFEST}", "files.README.md", "x")),
    "hash-a-number": (MODEL, lambda: _entry(MODEL, {"sha256": 7, "bytes": 1})),
    "hash-missing": (MODEL, lambda: _entry(MODEL, {})),
    "size-below": (MODEL, lambda: _entry(MODEL, {"sha256": "0" * 64, "bytes": -1})),
    "unknown-key": (MANIFEST, edit_json(f"artifact/{MANIFEST}", "surplus", 1)),
    "other-version": ("format_version", edit_json(f"artifact/{MANIFEST}", "format_version", 99)),
    "version-a-word": ("format_version", edit_json(f"artifact/{MANIFEST}", "format_version", "one")),
    "name-above": (MANIFEST, lambda: _entry("../x", {"sha256": "0" * 64, "bytes": 1})),
    "name-absolute": (MANIFEST, lambda: _entry("/etc/passwd", {"sha256": "0" * 64, "bytes": 1})),
    "name-empty": (MANIFEST, lambda: _entry("", {"sha256": "0" * 64, "bytes": 1})),
    "name-nul": (MANIFEST, lambda: _entry("a\0b", {"sha256": "0" * 64, "bytes": 1})),
    "name-long": (MANIFEST, lambda: _entry("x" * 5000, {"sha256": "0" * 64, "bytes": 1})),
    "name-newline": (MANIFEST, lambda: _entry("a\nb", {"sha256": "0" * 64, "bytes": 1})),
    "surplus-file": (OTHER, write(f"artifact/{OTHER}", "x")),
}


def _entry(name: str, value: Any) -> None:
    path = Path("artifact", MANIFEST)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"][name] = value
    path.write_text(json.dumps(manifest), encoding="utf-8")


CONFIGS: dict[str, tuple[str, Any]] = {
    "labels": ("labels", ABSENT),
    "labels-empty": ("labels", []),
    "labels-a-word": ("labels", "first"),
    "labels-numbers": ("labels", [1, 2, 3]),
    "labels-fewer": ("labels", ["first", "second"]),
    "labels-more": ("labels", ["a", "b", "c", "d"]),
    "labels-long": ("labels", ["x" * 5000, 2, 3]),
    "labels-newline": ("labels", ["a\nb", "second", 3]),
    "max_length-missing": ("max_length", ABSENT),
    "max_length-zero": ("max_length", 0),
    "max_length-word": ("max_length", "many"),
    "max_length-truth": ("max_length", True),
    "max_length-fraction": ("max_length", 2.5),
    "max_length-huge": ("max_length", 10**30),
    "pad_token_id-missing": ("pad_token_id", ABSENT),
    "pad_token_id-below": ("pad_token_id", -1),
    "pad_token_id-word": ("pad_token_id", "x"),
    "pad_token_id-huge": ("pad_token_id", 10**30),
    "pad_token_id-outside": ("pad_token_id", 10**6),
    "num_threads-below": ("num_threads", -1),
    "num_threads-word": ("num_threads", "many"),
    "num_threads-truth": ("num_threads", True),
    "num_threads-huge": ("num_threads", 10**30),
    "threshold-word": ("threshold", "low"),
    "threshold-empty": ("threshold", {}),
    "threshold-unknown-score": ("threshold", {"score": "beauty", "value": 0.5, "label": "oos"}),
    "threshold-word-value": ("threshold", {"score": "energy", "value": "low", "label": "oos"}),
    "threshold-without-output": ("threshold", {"score": "margin", "value": 0.5, "label": "second"}),
    "threshold-of-another-output": (
        "threshold",
        {"score": "margin", "value": 0.5, "label": "second", "weight": 0.5, "output": 0},
    ),
    "threshold-no-label": ("threshold", {"score": "energy", "value": 0.5, "label": None}),
    "session-word": ("session", "fast"),
    "session-unknown": ("session", {"speed": 9}),
    "session-list": ("session", [1]),
    "session-profile": ("session", {"enable_profiling": True}),
    "session-library": ("session", {"register_custom_ops_library": "/tmp/x.so"}),
    "out_of_scope_label-number": ("out_of_scope_label", 7),
}
CONFIG_FILES: dict[str, bytes | str] = {
    "no-json": "{",
    "list": "[]",
    "null": "null",
    "binary": bytes(range(256)),
    "deep": "[" * 100_000,
    "huge-number": '{"labels": ["a"], "max_length": ' + "9" * 5000 + "}",
}
TOKENIZERS: dict[str, Damage] = {
    "no-json": write(f"artifact/{TOKENIZER}", "{"),
    "list": write(f"artifact/{TOKENIZER}", "[]"),
    "nothing-in-it": write(f"artifact/{TOKENIZER}", "{}"),
    "binary": write(f"artifact/{TOKENIZER}", bytes(range(256))),
    "no-model": edit_json(f"artifact/{TOKENIZER}", "model", None),
    "unknown-model": edit_json(f"artifact/{TOKENIZER}", "model.type", "Dice"),
    "no-pieces": edit_json(f"artifact/{TOKENIZER}", "model.vocab", {}),
    "number-outside": edit_json(f"artifact/{TOKENIZER}", "model.vocab.open", 99_999),
    "number-below": edit_json(f"artifact/{TOKENIZER}", "model.vocab.open", -3),
    "no-unknown-piece": edit_json(f"artifact/{TOKENIZER}", "model.unk_token", "[NONE]"),
    "bad-normalizer": edit_json(
        f"artifact/{TOKENIZER}", "normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "bad-pattern": edit_json(
        f"artifact/{TOKENIZER}", "normalizer", {"type": "Replace", "pattern": {"Regex": "(("}, "content": ""}
    ),
    "bad-decoder": edit_json(f"artifact/{TOKENIZER}", "decoder", {"type": "Dice"}),
}
GRAPHS: dict[str, Damage] = {
    "nan": graph(_fill("table", float("nan"))),
    "nan-head": graph(_fill("outer", float("nan"))),
    "infinite": graph(_fill("outer", float("inf"))),
    "overflows": graph(_fill("outer", 3e38)),
    "fewer-outputs": graph(_fewer_outputs),
    "other-input": graph(
        lambda g: (_set(g.input[0], "name", "pixels"), g.node[0].input.__setitem__(1, "pixels"))
    ),
    "input-floats": graph(lambda g: _set(g.input[0].type.tensor_type, "elem_type", 1)),
    "input-words": graph(lambda g: _set(g.input[0].type.tensor_type, "elem_type", 8)),
    "no-nodes": graph(lambda g: g.ClearField("node")),
    "no-outputs": graph(lambda g: g.ClearField("output")),
    "no-inputs": graph(lambda g: g.ClearField("input")),
    "no-weights": graph(lambda g: g.ClearField("initializer")),
    "unknown-operator": graph(lambda g: _set(g.node[0], "op_type", "Dice")),
    "unknown-domain": graph(lambda g: _set(g.node[0], "domain", "no.such.domain")),
    "fixed-batch": graph(lambda g: _set(g.input[0].type.tensor_type.shape.dim[0], "dim_value", 7)),
    "fixed-length": graph(lambda g: _set(g.input[0].type.tensor_type.shape.dim[1], "dim_value", 3)),
    "circle": graph(lambda g: g.node[0].input.__setitem__(1, "logits")),
    "weights-outside": graph(_kept_outside),
    "text": resealed(write(f"artifact/{MODEL}", "no graph"), MODEL),
    "empty": resealed(write(f"artifact/{MODEL}", ""), MODEL),
    "cut": resealed(cut(f"artifact/{MODEL}"), MODEL),
    "zeros": resealed(write(f"artifact/{MODEL}", bytes(5000)), MODEL),
}
PREDICT = ("predict", "artifact", TEXT)
BENCHMARK = ("benchmark", "artifact", option("benchmark", "runs"), "2")
DIRECTORIES = {
    "empty": "",
    "missing": "no-such-folder",
    "nul": "a\0b",
    "too-long": "x" * 5000,
    "newline": "a\nb",
    "nobodys-home": "~nobody-at-all/x",
    "url-with-secret": f"s3://key:{SECRET}@bucket/x",
    "dot": ".",
    "file": "job.yaml",
    "device": "/dev/zero",
}
TEXTS: dict[str, tuple[str, ...]] = {
    "surrogate": ("a\udcff",),
    "long-surrogate": ("a\udcff" + "x" * 5000,),
}
STDINS: dict[str, bytes] = {
    "latin-1": b"caf\xe9\n",
    "binary": bytes(range(256)),
}
TEXT_FILES: dict[str, Damage] = {
    "missing": remove("texts.txt"),
    "empty": write("texts.txt", ""),
    "blank": write("texts.txt", "\n \n"),
    "latin-1": write("texts.txt", b"caf\xe9\n"),
    "utf-16": write("texts.txt", "text\n".encode("utf-16")),
    "folder": folder("texts.txt"),
    "pipe": fifo("texts.txt"),
    "endless": link("texts.txt", "/dev/zero"),
    "loop": link("texts.txt", "texts.txt"),
}


def _cases() -> Iterator[Case]:
    turn = itertools.cycle((PREDICT, PREDICT, BENCHMARK))
    needs = ("artifact",)
    for how, name, damage in of_files("artifact"):
        # `predict` does not read the model card, and accepts a folder without a manifest, such as an exported variant.
        only_benchmark = name == CARD or how in (f"{MANIFEST}/missing", f"{MANIFEST}/dangling")
        command = BENCHMARK if only_benchmark else next(turn)
        yield Case(f"artifact/{how}", command, names=(name,), needs=needs, damage=damage)
    for how, name, damage in of_files(PULLED):
        given = ("pull", RUN, option("pull", "to"), "pulled")
        yield Case(f"pulled/{how}", given, names=(name,), needs=(STORAGE,), damage=damage)
    for how, (named, damage) in MANIFESTS.items():
        yield Case(
            f"manifest/{how}",
            next(turn),
            names=() if how == "name-nul" else (named,),
            needs=needs,
            damage=damage,
        )
    for how, (name, value) in CONFIGS.items():
        damage = resealed(edit_json(f"artifact/{CONFIG}", name, value), CONFIG)
        # Two texts of different lengths, so that one is padded.
        yield Case(
            f"artifact-config/{how}", (*PREDICT, "red"), names=(name, CONFIG), needs=needs, damage=damage
        )
    for how, content in CONFIG_FILES.items():
        damage = resealed(write(f"artifact/{CONFIG}", content), CONFIG)
        yield Case(f"artifact-config/{how}", PREDICT, names=(CONFIG,), needs=needs, damage=damage)
    for how, damage in TOKENIZERS.items():
        yield Case(
            f"tokenizer/{how}",
            (*PREDICT, "zebra"),
            names=((TOKENIZER, MODEL),)
            if how == "number-outside"
            else (TOKENIZER,),  # the graph has no such row
            needs=needs,
            damage=resealed(damage, TOKENIZER),
        )
    for how, damage in GRAPHS.items():
        yield Case(f"graph/{how}", PREDICT, names=(MODEL,), needs=needs, damage=damage)
    for how, directory in DIRECTORIES.items():
        shown = directory.split("\0")[0].split("\n")[0].split("://")[0][:12]
        named = (option("predict", "directory"), shown or option("predict", "directory"))
        for command in ("predict", "benchmark"):
            texts = (TEXT,) if command == "predict" else ()
            given = (command, directory, *texts)
            yield Case(f"{command}/directory-{how}", given, names=(named,), needs=("job.yaml",))
    for how, texts in TEXTS.items():
        yield Case(
            f"predict/text-{how}",
            ("predict", "artifact", "--", *texts),
            names=(("text", "TEXT"),),
            needs=needs,
        )
    for how, content in STDINS.items():
        yield Case(
            f"predict/stdin-{how}",
            ("predict", "artifact"),
            names=(("text", "TEXT"),),
            needs=needs,
            stdin=content,
        )
    for how, damage in TEXT_FILES.items():
        spelled = option("benchmark", "texts")
        given = ("benchmark", "artifact", spelled, "texts.txt")
        yield Case(f"benchmark/texts-{how}", given, names=(spelled,), needs=needs, damage=damage)


CASES: tuple[Case, ...] = tuple(_cases())
