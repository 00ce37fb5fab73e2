"""One example of each command, shown at the end of its help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

EXAMPLES = {
    "init": "distiltune init data.csv",
    "check": "distiltune check job.yaml",
    "run": "distiltune run job.yaml --set search.num_trials=4",
    "train": "distiltune train job.yaml --set training.alpha=0.3",
    "plan": "distiltune plan job.yaml",
    "config": "distiltune config quickstart",
    "submit": "distiltune submit job.yaml --address 10.0.0.5:8265 --follow",
    "resume": "distiltune resume latest --set search.num_trials=40",
    "stop": "distiltune stop latest",
    "runs": "distiltune runs --storage s3://bucket/runs",
    "status": "distiltune status latest --watch",
    "logs": "distiltune logs latest --follow",
    "show": "distiltune show latest --json",
    "report": "distiltune report latest",
    "tensorboard": "distiltune tensorboard latest",
    "pull": "distiltune pull latest --to ./model",
    "push": "distiltune push latest --to user/name --private",
    "choose": "distiltune choose latest 0003",
    "predict": "distiltune predict ./model 'a text' --top-k 3",
    "evaluate": "distiltune evaluate ./model data.csv --label-column intent",
    "label": "distiltune label texts.jsonl --teacher ./teacher --out teacher.parquet",
    "verify": "distiltune verify ./model",
    "benchmark": "distiltune benchmark ./model",
    "rm": "distiltune rm job-20260101-120000-ab12",
    "gc": "distiltune gc --keep best --older-than 30d --dry-run",
}


def add_help(commands: Iterable[Any], panel: str) -> None:
    """Assign typer commands to a panel of the help, and append its example to each."""
    for each in commands:
        name = each.name or each.callback.__name__.replace("_", "-")
        each.rich_help_panel = panel
        if name in EXAMPLES:
            each.epilog = f"Example: {EXAMPLES[name]}"
