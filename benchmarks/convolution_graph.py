"""Time the graphs of convolution students: bare sessions on one thread, timed in turns, and each node.

    python benchmarks/convolution_graph.py [--num-tokens 12] [--rounds 40] [--nodes] [--json FILE]

Each student has random weights and 30,522 word pieces. Its graphs are timed in one run: convolution nodes in 32 bits,
as PyTorch's exporter would write them, and distiltune's graphs in 32 bits, in dynamic 8 bits and, of the maximum alone,
in integers with fixed scales. Sessions run in turns of 50 calls; the result is the median of the fastest turn, which
other load on the machine hardly affects. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto

from distiltune.export.machine import describe_machine
from distiltune.export.markdown import Markdown, fixed, table
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.integer.graph import write_integer_graph
from distiltune.export.onnx.integer.ranges import measure_ranges
from distiltune.export.onnx.writer import GraphWriter
from distiltune.export.runtime.session.session_options import session_options
from distiltune.export.variants.dynamic import quantize_onnx
from distiltune.training.models.convolution import (
    ConvolutionConfig,
    ConvolutionForSequenceClassification,
    WindowProduct,
)

NUM_LABELS, OPSET = 150, 18
CALLS = 50  # per turn of a session
STUDENTS: dict[str, dict[str, Any]] = {
    "64 dimensions, 192 filters": {"hidden_size": 64, "num_filters": 192},
    "64 dimensions, 512 filters": {"hidden_size": 64, "num_filters": 512},
    "128 dimensions, 384 filters": {"hidden_size": 128, "num_filters": 384},
    "128 dimensions, 3 x 128 filters of 1, 2, 3": {
        "hidden_size": 128,
        "num_filters": 128,
        "window_sizes": [1, 2, 3],
    },
    "128 dimensions, 768 filters": {"hidden_size": 128, "num_filters": 768},
    "128 dimensions, a block, 512 filters": {"hidden_size": 128, "num_filters": 512, "num_blocks": 1},
}
FORMS = ("convolution nodes, fp32", "windows, fp32", "windows, int8", "integers")
TIMED_BY_NODE = FORMS[2:]
NUM_TEXTS = 200  # on which the scales of integers are measured


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-tokens", type=int, default=12, help="word pieces of the text")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each session")
    parser.add_argument("--nodes", action="store_true", help="also time each node of each graph in 8 bits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_graphs(Path(scratch))
        microseconds = time_graphs(paths, arguments.num_tokens, arguments.rounds)
        machine = describe_machine()
        sys.stdout.write(
            f"{machine['cpu']}, {' '.join(machine['instruction_sets'])}\n\n{times_table(microseconds)}\n"
        )
        nodes = {}
        if arguments.nodes:
            for (student, pooling, form), path in paths.items():
                if form in TIMED_BY_NODE:
                    name = f"{student}, {pooling}, {form}"
                    nodes[name] = time_nodes(path, arguments.num_tokens)
                    sys.stdout.write(f"\n{name}\n\n{nodes_table(nodes[name])}\n")
    if arguments.json:
        found = {"machine": machine, "microseconds": {", ".join(key): us for key, us in microseconds.items()}}
        arguments.json.write_text(json.dumps(found | {"nodes": nodes}, indent=2) + "\n", encoding="utf-8")


def write_graphs(folder: Path) -> dict[tuple[str, str, str], Path]:
    """Write each form of each student's graph; return the paths by student, pooling and form."""
    paths = {}
    for number, (student, shape) in enumerate(STUDENTS.items()):
        for pooling in ("max_mean", "max"):
            torch.manual_seed(0)
            config = ConvolutionConfig(**shape, pooling=pooling, num_labels=NUM_LABELS)
            model = ConvolutionForSequenceClassification(config).eval()
            made = [folder / f"{number}-{pooling}-{form}.onnx" for form in ("nodes", "fp32", "int8")]
            export_onnx(model, made[1], max_length=512)
            quantize_onnx(made[1], made[2])
            paths |= {(student, pooling, form): path for form, path in zip(FORMS[1:3], made[1:], strict=True)}
            if pooling == "max":
                paths[student, pooling, FORMS[3]] = folder / f"{number}-integers.onnx"
                write_integers(model, paths[student, pooling, FORMS[3]])
            if not config.num_blocks:
                onnx.save_model(with_convolution_nodes(model), str(made[0]))
                paths[student, pooling, FORMS[0]] = made[0]
    return paths


def write_integers(model: ConvolutionForSequenceClassification, path: Path) -> None:
    """Write the graph in integers, with the ranges of random texts."""
    drawn = np.random.default_rng(0)
    ranges = measure_ranges(model, [drawn.integers(1, 30522, 12) for _ in range(NUM_TEXTS)])
    options: dict[str, Any] = {"bits": 8, "table_bits": 8, "max_length": 512, "opset": OPSET}
    onnx.save_model(write_integer_graph(model, ranges, **options), str(path))


def with_convolution_nodes(model: ConvolutionForSequenceClassification) -> onnx.ModelProto:
    """Return the graph of the PyTorch layers: a convolution for each window size, batch norm, channels first."""

    def values(tensor: Any) -> np.ndarray:
        return tensor.detach().numpy()

    writer, encoder, norm = GraphWriter(), model.encoder, model.norm
    add, positions = writer.add, writer.integers(2)
    table = writer.weight("encoder.word_embeddings.weight", values(encoder.word_embeddings.weight))
    x = add("Transpose", add("Gather", table, "input_ids"), perm=[0, 2, 1])
    kept = add("Unsqueeze", add("Cast", "attention_mask", to=TensorProto.FLOAT), writer.integers(1))
    found = []
    for number, each in enumerate(model.get_submodule("encoder.filters").children()):
        assert isinstance(each, WindowProduct)
        size, name = each.window_size, f"encoder.filters.{number}"
        weight = values(each.linear.weight).reshape(-1, size, model.config.hidden_size).transpose(0, 2, 1)
        inputs = (
            writer.weight(f"{name}.weight", weight.copy()),
            writer.weight(f"{name}.bias", values(each.linear.bias)),
        )
        found.append(add("Conv", x, *inputs, pads=[(size - 1) // 2, size // 2]))
    joined = add("Concat", *found, axis=1) if len(found) > 1 else found[0]
    joined = add("Mul", add("Relu", joined), kept)
    pooled = add("ReduceMax", joined, positions, keepdims=0)
    if model.config.pooling == "max_mean":
        total, count = (add("ReduceSum", each, positions, keepdims=0) for each in (joined, kept))
        mean = add("Div", total, add("Max", count, writer.scalar(1.0, np.float32)))
        pooled = add("Concat", pooled, mean, axis=1)
    statistics = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    names = [writer.weight(f"norm.{number}", values(each)) for number, each in enumerate(statistics)]
    pooled = add("BatchNormalization", pooled, *names, epsilon=norm.eps)
    dense, head = model.dense, model.classifier
    hidden = add("Relu", writer.linear(pooled, "dense", values(dense.weight), values(dense.bias)))
    logits = writer.linear(hidden, "classifier", values(head.weight), values(head.bias))
    return writer.graph(logits, NUM_LABELS, OPSET)


def feed(session: ort.InferenceSession, num_tokens: int) -> dict[str, np.ndarray]:
    """Return the inputs of a graph for one text, without padding."""
    ids = np.random.default_rng(0).integers(1, 30522, (1, num_tokens))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {node.name: given[node.name] for node in session.get_inputs()}


def time_graphs(paths: dict[tuple[str, str, str], Path], num_tokens: int, rounds: int) -> dict[Any, float]:
    """Time the graphs in turns; return the median microseconds of a call in the fastest turn of each."""
    sessions = {key: ort.InferenceSession(str(path), session_options(1, {})) for key, path in paths.items()}
    given = {key: feed(session, num_tokens) for key, session in sessions.items()}
    times = defaultdict(list)
    for turn in range(rounds + 4):
        for key, session in sessions.items():
            taken = []
            for _ in range(CALLS):
                start = time.perf_counter_ns()
                session.run(None, given[key])
                taken.append(time.perf_counter_ns() - start)
            if turn >= 4:  # the first are warm-up
                times[key].append(median(taken) / 1000)
    return {key: min(each) for key, each in times.items()}


def time_nodes(path: Path, num_tokens: int, num_calls: int = 2000) -> dict[str, float]:
    """Return the median microseconds of each node of ONNX Runtime's optimized graph, by its profiler.

    The profiler itself adds some microseconds to each node.
    """
    options = session_options(1, {})
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = ort.InferenceSession(str(path), options)
    given = feed(session, num_tokens)
    for _ in range(num_calls):
        session.run(None, given)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[int]] = defaultdict(list)  # in the order in which the nodes run
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[f"{name} ({event['args']['op_name']})"].append(event["dur"])
    return {name: float(median(each[num_calls // 4 :])) for name, each in times.items()}


def times_table(microseconds: dict[Any, float]) -> Markdown:
    """Return a row for each student with the times of each form: maximum and mean, then maximum alone."""
    columns = [(form, pooling) for form in FORMS for pooling in ("max_mean", "max")]
    columns.remove((FORMS[3], "max_mean"))
    titles = [f"{form}, {pooling.replace('_', ' + ')}" for form, pooling in columns]
    rows = [
        [student, *(fixed(microseconds.get((student, pooling, form)), 1) for form, pooling in columns)]
        for student in STUDENTS
    ]
    return table(["microseconds", *titles], rows)


def nodes_table(microseconds: dict[str, float]) -> Markdown:
    """Return a row for each node, in the order in which they run."""
    return table(["node", "microseconds"], [[name, f"{us:.2f}"] for name, us in microseconds.items()])


if __name__ == "__main__":
    main()
