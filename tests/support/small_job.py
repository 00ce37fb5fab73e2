"""A small job that runs from the command line."""

import os
import sys
import time

COMMAND = [sys.executable, "-c", "import sys; from distiltune.cluster.cli import main; sys.exit(main())"]


JOB = {
    "data": {"source": "embedded", "max_train_examples": 300},
    "teacher": {
        "ensemble": 2,
        "scratch": {
            "vocab_size": 600,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "num_train_epochs": 2,
        },
    },
    "student": {"layers": [1]},
    "training": {"max_length": 24},
    "search": {"num_trials": 2, "space": {"num_train_epochs": {"type": "int", "low": 1, "high": 2}}},
    "export": {"variants": ["onnx", "onnx-int8"], "choose": {"max_drop_from_student": 1.0}},
    "benchmark": {
        "num_warmups": 1,
        "num_runs": 5,
        "num_sample_texts": 10,
        "batch_sizes": [1, 4],
        "lengths": [],
        "tune_session": False,
        "floors": False,
        "interleaved": False,
        "baselines": [],
    },
}
# For tests that look neither at several teachers nor at several variants.
SMALLEST_JOB = {
    **JOB,
    "teacher": {**JOB["teacher"], "ensemble": 1},
    "export": {**JOB["export"], "variants": ["onnx"]},
}


def environment():
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def eventually(read, good, timeout_s=60):
    """Read until the answer is good; wait for a server that does not listen yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            value = read()
            if good(value):
                return value
        except OSError:
            value = None
        assert time.monotonic() < deadline, value
        time.sleep(0.5)
