"""Measure where the time of one text goes: the tokenizer alone, the bare session, and from text to label.

    OMP_NUM_THREADS=1 python benchmarks/runtime.py [--artifact DIR] [--texts FILE] [--rounds 200] [--tokenizer fast]

Each round times all three in turn for every text, so that other load on the machine affects them alike. The default
artifact has random weights, the tokenizer of the extra ``offline``, a threshold and a temperature; its graph, in 8
bits, looks up rows of 64 numbers, multiplies them by one matrix, applies ReLU and the maximum over the text, and
multiplies by a matrix to 150 labels. Times are in microseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tokenizers
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from distiltune import TextClassifier
from distiltune.export.runtime.session.session_options import session_options
from distiltune.training.checkpoints.offline import offline_directory

WIDTH, HIDDEN, NUM_LABELS, MAX_LENGTH = 64, 512, 150, 32
WARM_UP = 20
TEXTS = (
    "when is the next tram to the harbour",
    "please freeze my card, i think it was stolen yesterday",
    "how much did i spend on groceries last month",
    "set an alarm for half past six tomorrow morning",
    "what's the weather like in Reykjavik this weekend?",
    "transfer 250 dollars from checking to savings",
    "can you tell me how to say thank you in Japanese",
    "i need a vegetarian recipe for four people",
    "book a table for two at eight tonight",
    "is there any traffic on my way to work",
    "remind me to call the dentist on Thursday at noon",
    "play the album that came out last week",
    "what is the exchange rate between euro and yen",
    "cancel my subscription and send me a confirmation",
    "why was my account blocked",
    "who wrote the book about the lighthouse keeper",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--artifact", type=Path, help="folder of an artifact (default: one with random weights)"
    )
    parser.add_argument("--texts", type=Path, help="file with one text per line (default: 16 English texts)")
    parser.add_argument("--rounds", type=int, default=200, help="timings of each text")
    parser.add_argument("--tokenizer", choices=["fast", "tokenizers"], help="as in TextClassifier.load")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    texts = TEXTS if given.texts is None else given.texts.read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        artifact = given.artifact or make_artifact(Path(scratch) / "artifact")
        options = {} if given.tokenizer is None else {"tokenizer": given.tokenizer}
        found = {**split(artifact, texts, given.rounds, options), **calls(artifact, texts[0], options)}
    if given.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:42} {value if isinstance(value, str) else format(value, '8.1f')}\n")


def split(artifact: Path, texts: Any, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return times over all texts and rounds, and the runtime's own share."""
    tokenizer = tokenizers.Tokenizer.from_file(str(artifact / "tokenizer.json"))
    session = ort.InferenceSession(
        str(artifact / "model.onnx"), session_options(1, {}), providers=["CPUExecutionProvider"]
    )
    classifier = TextClassifier.load(artifact, num_threads=1, session={}, **options)
    names, declared = [session.get_outputs()[0].name], {each.name for each in session.get_inputs()}
    feeds = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feeds.append({name: value for name, value in feed.items() if name in declared})
    clock, rows = time.perf_counter, []
    for number in range(WARM_UP + rounds):
        for text, feed in zip(texts, feeds, strict=True):
            marks = [clock()]
            tokenizer.encode(text)
            marks.append(clock())
            session.run(names, feed)
            marks.append(clock())
            classifier(text)
            marks.append(clock())
            if number >= WARM_UP:
                rows.append(marks)
    times = np.diff(rows, axis=1) * 1e6
    found: dict[str, Any] = {
        "tokenizer": classifier.tokenizer_name,
        "tokens, mean": float(np.mean([feed["input_ids"].size for feed in feeds])),
    }
    for name, percent in (
        ("median", 50),
        ("10th percentile", 10),
    ):  # the second is less disturbed by other load
        alone, bare, whole = np.percentile(times, percent, axis=0).tolist()
        found |= {
            f"tokenizers.encode alone, {name}": alone,
            f"bare session, {name}": bare,
            f"text to label, {name}": whole,
        }
        if classifier.tokenizer_name == "tokenizers":
            found[f"the runtime's own, {name}"] = whole - alone - bare
    return found


def calls(artifact: Path, text: str, options: dict[str, Any]) -> dict[str, float]:
    """Return times of the first call after loading, and around the tenth and the thousandth, as medians over loads."""
    clock, rows = time.perf_counter, []
    for _ in range(5):
        classifier = TextClassifier.load(artifact, num_threads=1, session={}, **options)
        times = []
        for _ in range(1010):
            start = clock()
            classifier(text)
            times.append(clock() - start)
        rows.append([times[0], np.median(times[5:15]), np.median(times[990:1010])])
    first, tenth, thousandth = (np.median(rows, axis=0) * 1e6).tolist()
    return {"first call": first, "tenth call": tenth, "thousandth call": thousandth}


def make_artifact(directory: Path) -> Path:
    """Write an artifact with random weights into a new ``directory``."""
    directory.mkdir(parents=True)
    source, _ = offline_directory("all-MiniLM-L6-v2")
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.save(str(directory / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        onnx.save_model(graph(tokenizer.get_vocab_size()), str(plain))
        quantize_dynamic(plain, directory / "model.onnx", op_types_to_quantize=["MatMul"])
    settings = {
        "task": "single_label",
        "labels": [f"label {number}" for number in range(NUM_LABELS)],
        "max_length": MAX_LENGTH,
        "pad_token_id": 0,
        "temperature": 1.3,
        "threshold": {"score": "energy", "value": 1.0, "label": "none of these"},
    }
    (directory / "distiltune.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def graph(num_rows: int) -> onnx.ModelProto:
    """Build the graph: ids[B, L] → 8-bit rows[B, L, 64] → [B, L, 512], ReLU, maximum over L → logits[B, 150]."""
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.integers(-127, 128, (num_rows, WIDTH)).astype(np.int8),
        "scale": np.array(0.01, np.float32),
        "inner": rng.normal(size=(WIDTH, HIDDEN)).astype(np.float32) / 8,
        "outer": rng.normal(size=(HIDDEN, NUM_LABELS)).astype(np.float32) / 8,
        "tokens": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "scale"], ["floats"]),
        helper.make_node("MatMul", ["floats", "inner"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("ReduceMax", ["positive", "tokens"], ["largest"], keepdims=0),
        helper.make_node("MatMul", ["largest", "outer"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_LABELS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


if __name__ == "__main__":
    main()
