"""A small job to submit to a cluster."""

JOB = {
    "data": {"source": "embedded", "max_train_examples": 200},
    "teacher": {
        "scratch": {
            "vocab_size": 400,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_train_epochs": 1,
        }
    },
    "resources": {"teacher": {"cpu": 1}},  # threads that wait for each other take the cores from other tests
    "student": {"layers": [0]},
    "training": {"max_length": 16},
    "search": {"num_trials": 1, "space": {"num_train_epochs": {"type": "fixed", "value": 1}}},
    "export": {"variants": ["onnx"], "choose": {"max_drop_from_student": 1.0}},
    "benchmark": {
        "effort": "quick",
        "num_warmups": 1,
        "num_runs": 3,
        "num_sample_texts": 5,
        "batch_sizes": [1],
        "tune_session": False,
        "floors": False,
        "lengths": [],
        "interleaved": False,
        "baselines": [],
    },
}


def write_data(directory):
    """Data that a tiny model learns."""
    for split in ("train", "validation", "test"):
        rows = [f"{split} {number} {label},{label}" for number in range(20) for label in ("yes", "no")]
        (directory / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return ["data.source=files", "data.max_train_examples=null"] + [
        f"data.{split}={directory / split}.csv" for split in ("train", "validation", "test")
    ]
