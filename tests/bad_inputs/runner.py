"""Start the processes that run cases, and send cases to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .case import SECRET, Case, Outcome

TESTS = Path(__file__).parents[1]
SUPPORT = TESTS / "support"
_COMMANDS = (
    "typer._adapters",
    "typer._click.decorators",
    "importlib.readers",
    "encodings.utf_8_sig",
    "encodings.idna",
)
_RUNTIME = ("numpy", "pyarrow.fs", "onnxruntime", "tokenizers", "psutil", "fsspec.implementations.local")
_RUNTIME += ("rich.console", "rich.table", "rich.live", "rich.progress")
_TRAINING = (
    "pandas",
    "torch",
    "transformers",
    "datasets",
    "optuna",
    "onnx",
    "safetensors.torch",
    "huggingface_hub",
)
_TRAINING += ("accelerate", "transformers.training_args", "transformers.trainer_callback")
TIERS: dict[str, tuple[str, ...]] = {
    "training": (*_COMMANDS, *_RUNTIME, *_TRAINING),  # started first, since it makes the good inputs
    "runtime": (*_COMMANDS, *_RUNTIME),
    "light": _COMMANDS,
}
"""Modules that a process loads before its first fork."""


class Runner:
    """Runs cases in one process for each tier, which is started when it is first needed."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._servers = {"training": _Server(base, "training")}

    def run(self, case: Case) -> Outcome:
        """Run a case and return its outcome."""
        if case.tier not in self._servers:
            self._servers[case.tier] = _Server(self._base, case.tier)
        return self._servers[case.tier].run(case.id)

    def close(self) -> None:
        """End the processes."""
        for server in self._servers.values():
            server.close()


class _Server:
    """A process that runs cases, and the pipes to it; it is ready once constructed."""

    def __init__(self, base: Path, tier: str) -> None:
        home = base / f"home-{tier}"
        home.mkdir()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(
                [str(TESTS), str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HF_TOKEN": SECRET,
            "RAY_AUTH_TOKEN": SECRET,
            "COLUMNS": "160",
        }
        self._log = (base / f"{tier}.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bad_inputs.server", str(base), tier],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=base,
            text=True,
        )
        self._answer()

    def run(self, case_id: str) -> Outcome:
        """Run the case with this id and return its outcome."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(case_id) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._answer())
        return Outcome(
            **{name: tuple(each) if isinstance(each, list) else each for name, each in answer.items()}
        )

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError(
                f"the process of the cases ended: {Path(self._log.name).read_text()[-2000:]}"
            )
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()
        self._log.close()
