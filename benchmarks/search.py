"""Compare the hyperparameter search of distiltune with transformers' own: trials/hour and accuracy, in one run.

    python benchmarks/search.py --data data_oos_plus.json [--encoder offline:all-MiniLM-L6-v2] [--layers 0 5]
        [--trials 8] [--epochs-low 5] [--epochs-high 10] [--teacher DIR] [--json FILE] [--profile]

The peer is ``transformers.Trainer.hyperparameter_search(backend="ray")`` with Ray's ``OptunaSearch`` over the
trainer of chapter 8 of "Natural Language Processing with Transformers": the teacher runs in ``compute_loss``, with
batches of 48, fp32 and default ``TrainingArguments``. They deviate from transformers' defaults only where the book does
(batch size, weight decay, evaluation each epoch), in the learning rate (a flag), and in the peer's favour: no progress
bars, and only one checkpoint is kept (one every 500 steps, where distiltune writes one per epoch).

Three searches run one after the other, each in a new process:

1. the peer;
2. distiltune with the same space, number of trials and seed, without early stopping;
3. distiltune with early stopping, until it is as good as the peer's best (at most ``--early-trials`` trials).

All have the same teacher, student (layers of the teacher), texts and CPUs, with one CPU and one thread per trial and
trials side by side. The time of a search begins when texts, teacher and student are ready and libraries are imported,
and ends when the search is over. It includes the start of Ray, tokenizing, and for distiltune the teacher's logits,
which each of its two searches computes anew. The time to an accuracy is for the peer the time at which an epoch was
reported (whole seconds, rounded down), for distiltune the time at which the driver reported progress. No GPU is used.

``--profile`` runs only the second search, and shows where the time of its slots goes (a slot runs one trial at a
time). ``--skip-peer FILE`` takes the peer's figures from the JSON of an earlier run with the same settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_profile import shares, time_trials
from search_report import compare, machine, show, show_profile

if TYPE_CHECKING:
    from distiltune.progress import Progress
    from distiltune.storage.store import Store

MAX_LENGTH = 64
PEER_BATCH_SIZE = 48


@dataclass(frozen=True)
class Spec:
    """Settings that all searches share; passed to their processes as JSON."""

    data: str
    encoder: str
    layers: list[int]
    teacher: str | None
    train_texts: int | None
    trials: int
    early_trials: int
    epochs: list[int]
    seed: int
    cpus: int
    peer_learning_rate: float
    learning_rate: float | None
    scheduler: str
    work: str
    target: float | None = None

    def at(self, name: str) -> Path:
        return Path(self.work) / name


class Clock:
    """Seconds since the start of a search, in total and by part."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.parts: dict[str, float] = {}
        self._last = self._start = time.monotonic()

    def part(self, name: str) -> None:
        now = time.monotonic()
        self.parts[name] = now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


# ---- The peer: transformers and Ray as documented, without distiltune -----------------------------------


def run_peer(spec: Spec) -> dict[str, Any]:
    import numpy as np
    import ray
    import torch
    from datasets import load_from_disk
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch
    from torch import nn
    from torch.nn import functional
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
    from transformers.trainer_utils import BestRun

    class BookTrainer(Trainer):
        args: Any  # TrainingArguments with alpha and temperature, set below

        def __init__(self, *args: Any, teacher_model: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.teacher_model = teacher_model

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            student = model(**inputs)
            with torch.no_grad():
                teacher = self.teacher_model(**inputs)
            temperature = self.args.temperature
            soft = temperature**2 * nn.KLDivLoss(reduction="batchmean")(
                functional.log_softmax(student.logits / temperature, dim=-1),
                functional.softmax(teacher.logits / temperature, dim=-1),
            )
            loss = self.args.alpha * student.loss + (1.0 - self.args.alpha) * soft
            return (loss, student) if return_outputs else loss

    student_dir, (low, high) = str(spec.at("student")), spec.epochs

    def student_init() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(student_dir)

    def compute_metrics(evaluated: Any) -> dict[str, float]:
        right = np.argmax(evaluated.predictions, axis=1) == evaluated.label_ids
        return {"accuracy": float(right.mean()), "threads": torch.get_num_threads()}

    def hp_space(trial: Any) -> dict[str, Any]:
        return {
            "alpha": tune.uniform(0.0, 1.0),
            "temperature": tune.randint(2, 21),
            "num_train_epochs": tune.randint(low, high + 1),
        }

    texts = {name: load_from_disk(str(spec.at("texts") / name)) for name in ("train", "validation")}
    clock = Clock()
    ray.init(
        num_cpus=spec.cpus, include_dashboard=False, log_to_driver=False, _temp_dir=str(spec.at("ray-peer"))
    )
    clock.part("ray_s")
    tokenizer = AutoTokenizer.from_pretrained(spec.at("teacher"))
    encoded = {
        name: rows.map(
            lambda batch: tokenizer(batch["text"], truncation=True), batched=True, remove_columns=["text"]
        ).rename_column("label", "labels")
        for name, rows in texts.items()
    }
    clock.part("tokenize_s")
    args = TrainingArguments(
        output_dir=str(spec.at("peer")),
        eval_strategy="epoch",
        learning_rate=spec.peer_learning_rate,
        per_device_train_batch_size=PEER_BATCH_SIZE,
        per_device_eval_batch_size=PEER_BATCH_SIZE,
        weight_decay=0.01,
        seed=spec.seed,
        save_total_limit=1,
        disable_tqdm=True,
    )
    # The book has a subclass with these two. Here they are plain attributes, because transformers pickles the arguments
    # beside each checkpoint, and a Ray worker can only pickle classes that it can import.
    vars(args).update(alpha=0.5, temperature=2.0)
    trainer = BookTrainer(
        model_init=student_init,
        teacher_model=AutoModelForSequenceClassification.from_pretrained(spec.at("teacher")),
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    best = trainer.hyperparameter_search(
        hp_space=hp_space,
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        n_trials=spec.trials,
        direction="maximize",
        backend="ray",
        search_alg=OptunaSearch(metric="objective", mode="max", seed=spec.seed),
        resources_per_trial={"cpu": 1},
        storage_path=str(spec.at("peer")),
        name="tune",
        verbose=0,
    )
    clock.part("search_s")
    wall_s = clock.seconds
    assert isinstance(best, BestRun) and best.run_summary is not None, (
        "with Ray, one run and the analysis of all"
    )
    analysis = best.run_summary
    configs, frames = analysis.get_all_configs(), analysis.trial_dataframes
    ray.shutdown()
    trials = [
        {
            "number": number,
            "state": "finished",
            "parameters": configs[trial.trial_id],
            "epochs": [
                [row.timestamp - clock.started_at, row.objective]
                for row in frames[trial.trial_id].itertuples()
            ],
        }
        for number, trial in enumerate(analysis.trials)
    ]
    (threads,) = {int(value) for frame in frames.values() for value in frame["eval_threads"]}
    settings = {"batch_size": PEER_BATCH_SIZE, "precision": "fp32", "learning_rate": spec.peer_learning_rate}
    return (
        figures_of(trials, len(encoded["train"]), wall_s, clock.parts)
        | settings
        | {"threads_per_trial": threads}
    )


# ---- distiltune -----------------------------------------------------------------------------------------


def run_ours(spec: Spec, *, early: bool = False, profile: bool = False) -> dict[str, Any]:
    import optuna
    import ray.tune

    from distiltune.cluster.session.ray_session import ray_session
    from distiltune.cluster.specification.resources import ResourcesConfig
    from distiltune.search.driver.run_search import run_search
    from distiltune.storage.store import Store
    from distiltune.training.distillation.arguments import arguments_from_config
    from distiltune.training.distillation.config import TrainingConfig

    del optuna, ray  # imported only so that, as for the peer, this is not timed
    name = "early" if early else "ours"
    directory = spec.at(name)
    directory.mkdir()
    store = Store(str(directory))
    for model in ("teacher", "student"):
        (directory / model).symlink_to(spec.at(model))
    rate: dict[str, Any] = {} if spec.learning_rate is None else {"learning_rate": spec.learning_rate}
    training = TrainingConfig(max_length=MAX_LENGTH, seed=spec.seed, **rate)
    data = load_texts(spec)
    records = spec.at("laps")
    records.mkdir(exist_ok=True)
    if profile:
        time_trials(str(records))
    seen: list[list[float]] = []
    clock = Clock()

    def watch(progress: Progress) -> None:
        best = progress.values["best_value"]
        if best is not None and (not seen or best > seen[-1][1]):
            seen.append([clock.seconds, best])

    with ray_session(ResourcesConfig(num_cpus=spec.cpus)):
        clock.part("ray_s")
        inputs = make_inputs(spec, data, store, clock)
        search_from = time.time()
        outcome = run_search(
            search_config(spec, early),
            training,
            inputs,
            store=store,
            experiment="search",
            tensorboard="tensorboard",
            logs="logs",
            cpus_per_trial=1,
            gpus_per_trial=0,
            report=watch,
        )
        clock.part("search_s")
        wall_s, search_to = clock.seconds, time.time()
    trials = [
        {
            "number": trial.number,
            "state": trial.state,
            "parameters": trial.parameters,
            "epochs": reported_epochs(store, trial.trial_id, clock.started_at),
        }
        for trial in outcome.trials
    ]
    args = arguments_from_config(training, ".", use_cpu=True)
    settings = {
        "batch_size": args.per_device_train_batch_size,
        "precision": "bf16" if args.bf16 else "fp32",
        "learning_rate": args.learning_rate,
        "threads_per_trial": 1,
        "best_over_time": seen,
        "ended_by": outcome.ended_by,
    }
    side = figures_of(trials, len(inputs.train["train"]), wall_s, clock.parts) | settings
    return side | shares(side, records, spec.cpus, search_from, search_to) if profile else side


def search_config(spec: Spec, early: bool) -> Any:
    from distiltune.search.config import SearchConfig

    low, high = spec.epochs
    space = {
        "alpha": {"type": "float", "low": 0.0, "high": 1.0},
        "temperature": {"type": "int", "low": 2, "high": 20},
        "num_train_epochs": {"type": "int", "low": low, "high": high},
    }
    stopping = {"scheduler": spec.scheduler, "budget": {"target_value": spec.target}} if early else {}
    num_trials = spec.early_trials if early else spec.trials
    return SearchConfig.model_validate(
        {"num_trials": num_trials, "seed": spec.seed, "space": space, **stopping}
    )


def make_inputs(spec: Spec, data: Any, store: Store, clock: Clock) -> Any:
    """Tokenize the texts and compute the teacher's logits of the training texts, like the stages of a job."""
    from distiltune.search.driver.run_search import TrialInputs
    from distiltune.search.space.students import ONLY_STUDENT, Student
    from distiltune.training.checkpoints.load import load_tokenizer
    from distiltune.training.data.tokenized import LabelledSplit, tokenize_split
    from distiltune.training.teacher.logits_cache import teacher_logits

    teacher = store.fetch("teacher")
    tokenizer, rows = load_tokenizer(teacher), data.splits
    tokens = {
        name: tokenize_split(rows[name]["text"][:], rows[name]["label"][:], tokenizer, MAX_LENGTH)
        for name in ("train", "validation")
    }
    clock.part("tokenize_s")
    logits = teacher_logits(
        teacher,
        tokens["train"],
        max_length=MAX_LENGTH,
        cache_dir=store.local("logits"),
        num_threads=spec.cpus,
        use_gpu=False,
    )
    assert logits.computed, "the cache has no logits when a search begins"
    clock.part("logits_s")
    return TrialInputs(
        students={ONLY_STUDENT: Student("student")},
        train={"train": LabelledSplit(tokens["train"], logits.logits)},
        validation=tokens["validation"],
        out_of_scope_id=data.out_of_scope_id,
        label_names=data.label_names,
        teacher="teacher",
    )


def reported_epochs(store: Store, trial_id: str, started_at: float) -> list[list[float]]:
    """Return seconds from the start of the search, and accuracy, of every epoch reported to the driver."""
    content = store.read(f"search/{trial_id}/result.json") or b""
    results = [json.loads(line) for line in content.decode().splitlines()]
    return [
        [each["timestamp"] - started_at, each["validation_accuracy"]]
        for each in results
        if not each.get("failure")
    ]


def figures_of(
    trials: list[dict[str, Any]], num_train: int, wall_s: float, parts: dict[str, float]
) -> dict[str, Any]:
    """Return the figures to compare, computed in the same way for the peer and for distiltune."""
    epochs = [(accuracy, -seconds, trial) for trial in trials for seconds, accuracy in trial["epochs"]]
    accuracy, minus_seconds, best = max(epochs, key=lambda each: each[:2])
    hours, num_epochs = wall_s / 3600, len(epochs)
    return {
        "wall_s": wall_s,
        "parts": parts,
        "num_trials": len(trials),
        "num_pruned": sum(trial["state"] == "pruned" for trial in trials),
        "num_failed": sum(trial["state"] == "failed" for trial in trials),
        "num_epochs": num_epochs,
        "examples_per_s": num_epochs * num_train / wall_s,
        "trials_per_hour": len(trials) / hours,
        "epochs_per_hour": num_epochs / hours,
        "best_accuracy": accuracy,
        "best_after_s": -minus_seconds,
        "best_parameters": best["parameters"],
        "trials": trials,
    }


# ---- Searches as processes ------------------------------------------------------------------------------


def load_texts(spec: Spec) -> Any:
    from distiltune.training.data.config import data_config
    from distiltune.training.data.text_data import load_data

    return load_data(
        data_config(source="clinc_json", path=spec.data, max_train_examples=spec.train_texts, seed=spec.seed)
    )


def prepare(spec: Spec) -> dict[str, Any]:
    """Write the texts, the teacher, and the student that every trial starts from."""
    from distiltune.training.student.build import build_student
    from distiltune.training.student.config import student_config
    from distiltune.training.teacher.config import TeacherConfig
    from distiltune.training.teacher.prepare import prepare_teacher

    data = load_texts(spec)
    for name in ("train", "validation"):
        data.splits[name].save_to_disk(spec.at("texts") / name)
    ready = spec.teacher is not None and Path(spec.teacher, "config.json").is_file()
    recipe = {"checkpoint": spec.teacher} if ready else {"fine_tune": {"checkpoint": spec.encoder}}
    record = prepare_teacher(
        TeacherConfig.model_validate(recipe),
        data,
        spec.at("teacher") if ready or spec.teacher is None else Path(spec.teacher),
        max_length=MAX_LENGTH,
        num_threads=spec.cpus,
        use_gpu=False,
    )
    if not spec.at("teacher").exists():
        spec.at("teacher").symlink_to(Path(str(spec.teacher)).absolute())
    layers = student_config(layers=spec.layers)
    student = build_student(
        layers, spec.at("teacher"), data.label_names, spec.at("student"), max_length=MAX_LENGTH
    )
    return {
        "num_train": len(data.splits["train"]),
        "num_validation": len(data.splits["validation"]),
        "student_parameters": student["num_parameters"],
        "teacher_accuracy": record["validation_accuracy"],
        # All settings that the peer's figures depend on.
        "peer_settings": {
            "data": data.fingerprint,
            "teacher": weights_hash(spec.at("teacher")),
            "student": weights_hash(spec.at("student")),
            "trials": spec.trials,
            "epochs": spec.epochs,
            "seed": spec.seed,
            "cpus": spec.cpus,
            "learning_rate": spec.peer_learning_rate,
        },
    }


def weights_hash(directory: Path) -> str:
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()[:16]


SIDES: dict[str, Callable[[Spec], dict[str, Any]]] = {
    "prepare": prepare,
    "peer": run_peer,
    "ours": run_ours,
    "early": lambda spec: run_ours(spec, early=True),
    "profile": lambda spec: run_ours(spec, profile=True),
}
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise the peer's Ray would write a token for later sessions into the home directory.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "TOKENIZERS_PARALLELISM": "false",
}


def run_in_process(side: str, spec: Spec) -> dict[str, Any]:
    """Run an entry of ``SIDES`` in a process of its own, with its output in a log; return its result."""
    print(f"{side} ...", flush=True)
    started = time.monotonic()
    spec_file, log = spec.at("spec.json"), spec.at(f"{side}.log")
    spec_file.write_text(json.dumps(asdict(spec)), encoding="utf-8")
    command = [sys.executable, __file__, "--side", side, str(spec_file)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT
        ) as process,
    ):
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # ends its Ray too
            raise
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise SystemExit("\n".join([*lines[-40:], f"{side} ended with exit code {code}"]))
    print(f"{side} took {time.monotonic() - started:.0f} s", flush=True)
    return json.loads(spec.at(f"{side}.json").read_text(encoding="utf-8"))


def run_side(side: str, spec_file: str) -> None:
    warnings.filterwarnings("ignore")
    spec = Spec(**json.loads(Path(spec_file).read_text(encoding="utf-8")))
    spec.at(f"{side}.json").write_text(json.dumps(SIDES[side](spec)), encoding="utf-8")


@contextmanager
def work_directory() -> Iterator[Path]:
    # Ray's sockets need a short path; that of TMPDIR is often too long.
    parent = "/tmp" if os.access("/tmp", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dtb-", dir=parent, ignore_cleanup_errors=True) as work:
        yield Path(work)


# ---- Command line ---------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a file in CLINC150's own JSON format")
    add("--encoder", default="offline:all-MiniLM-L6-v2", help="the teacher's encoder: directory or hub id")
    add("--layers", type=int, nargs="+", default=[0, 5], help="teacher layers of the student")
    add("--teacher", type=Path, help="directory of a fine-tuned teacher; created if it does not exist")
    add("--train-texts", type=int, help="use only this many training texts, for a quick test")
    add("--trials", type=int, default=8, help="trials of the peer and of distiltune")
    add("--early-trials", type=int, help="maximum number of trials with early stopping (default: 3 x trials)")
    add("--epochs-low", type=int, default=5, help="minimum number of epochs of a trial")
    add("--epochs-high", type=int, default=10, help="maximum number of epochs of a trial")
    add("--seed", type=int, default=42, help="seed of the samplers and of training")
    add("--cpus", type=int, default=usable, help="CPUs, which is also the number of trials side by side")
    # Each default suits its batch size: 48 for the peer, the library's own for distiltune.
    add("--peer-learning-rate", type=float, default=5e-4, help="the peer's peak learning rate")
    add("--learning-rate", type=float, help="distiltune's peak learning rate (default: the library's)")
    add("--scheduler", choices=["asha", "median"], default="asha", help="early stopping of the third search")
    add("--skip-peer", type=Path, metavar="FILE", help="take the peer from the JSON of an earlier run")
    add("--profile", action="store_true", help="run only distiltune, and show where the time goes")
    add("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if not 1 <= given.epochs_low <= given.epochs_high:
        parser.error(
            f"--epochs-low {given.epochs_low} and --epochs-high {given.epochs_high}: 1 <= low <= high"
        )
    if given.teacher and given.teacher.is_dir() and not (given.teacher / "config.json").is_file():
        parser.error(
            f"--teacher {given.teacher} is a directory without a checkpoint; give one with a config.json, or a new path"
        )
    return given


def make_spec(given: argparse.Namespace, work: Path) -> Spec:
    return Spec(
        data=str(given.data.absolute()),
        encoder=given.encoder,
        layers=given.layers,
        teacher=str(given.teacher.absolute()) if given.teacher else None,
        train_texts=given.train_texts,
        trials=given.trials,
        early_trials=given.early_trials or 3 * given.trials,
        epochs=[given.epochs_low, given.epochs_high],
        seed=given.seed,
        cpus=given.cpus,
        peer_learning_rate=given.peer_learning_rate,
        learning_rate=given.learning_rate,
        scheduler=given.scheduler,
        work=str(work),
    )


def earlier_peer(path: Path, prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the peer's figures of an earlier run; reject those of another search."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    before, now = earlier["prepared"]["peer_settings"], prepared["peer_settings"]
    changed = [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        raise SystemExit(
            f"--skip-peer {path}: its settings differ: {'; '.join(changed)}; measure the peer again"
        )
    return earlier["sides"]["peer"]


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        run_side(*sys.argv[2:])
        return
    given = parse()
    # Exit on SIGTERM, so that the running side ends and the temporary directory is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with work_directory() as work:
        spec = make_spec(given, work)
        result: dict[str, Any] = {
            "machine": machine(spec.cpus),
            "spec": asdict(spec),
            "prepared": run_in_process("prepare", spec),
            "peer_from": str(given.skip_peer) if given.skip_peer else None,
            "sides": {},
        }
        for side in ("profile",) if given.profile else ("peer", "ours", "early"):
            reused = side == "peer" and given.skip_peer
            found = (
                earlier_peer(given.skip_peer, result["prepared"]) if reused else run_in_process(side, spec)
            )
            result["sides"][side] = found
            if side == "peer":
                spec = replace(spec, target=found["best_accuracy"])
            if given.json:  # after each: the peer takes an hour, and --skip-peer can reuse it
                given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if given.profile:
        show_profile(result)
        return
    result["ratios"] = compare(result["sides"])
    show(result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
