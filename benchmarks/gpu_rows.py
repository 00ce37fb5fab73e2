"""The measurements of ``benchmarks/gpu.py``: its rows, the most important first, each measured in some seconds.

``STEPS`` maps the title of each kind of training step to its arguments of ``DistillationTrainingArguments``. If this
version lacks one of the arguments, the row is an error that names it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from distiltune.training.machine import num_usable_cores

# Title -> arguments of DistillationTrainingArguments; the most important first.
STEPS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "32 bits, random order": {
        "bf16": False,
        "tf32": False,
        "train_sampling_strategy": "random",
        "data_on_device": False,
    },
    "tf32": {"bf16": False, "tf32": True},
    "32 bits": {"bf16": False, "tf32": False},
    "bf16, batch 256": {"bf16": True, "per_device_train_batch_size": 256},
    "texts on the host": {"data_on_device": False},
    "compiled": {"compile_step": True},
}
PACKED = (1, 8, 16, 4, 32, 2)
"""Numbers of trials that share a GPU; the most important first."""
CHECKPOINT_EVERY_S = 60
NUM_PIECES = 5000
"""Word pieces that the texts use, of which only the rows are trained; CLINC150's texts use 5,400 of 30,522."""
BATCH_SIZES = [1, 32, 256, 1024]
MPS = "nvidia-cuda-mps-control"
NUM_LABELS, WARM_UP_STEPS, PROFILED_STEPS = 151, 5, 10
WARM_UP_STEPS_COMPILED = 60  # about 5 shapes, each compiled and recorded; the rarest is in one of 17 batches
_MARKS, _MOVES = ("Optimizer.", "ProfilerStep"), ("Memcpy", "Memset")
_TRIAL_S = 3.0  # intended duration of the steps of a trial that runs alone
_MOST_EPOCHS = 20
_FIRST = 3  # steps, and numbers of trials, that are measured before rows of other kinds
_NOISE_BYTES = 64 * 2**20  # by which the memory in use may differ from that of an idle card


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: Title of the row.
        unit: Unit of its ``value``.
        seconds: Time limit.
        process: Name of its worker process; rows of one share libraries, the device's context and Ray.
        run: Measures it, and returns ``value`` and details as JSON values.
        prepare: Loads and starts what the row needs, before its time begins.
    """

    name: str
    unit: str
    seconds: float
    process: str
    run: Callable[[Bench], dict[str, Any]] = field(repr=False)
    prepare: Callable[[Bench], None] = field(default=lambda bench: bench.load_libraries(), repr=False)


@dataclass
class Bench:
    """Shared by the rows: the device, sizes, random weights and texts, and the values of earlier rows.

    Args:
        device: ``cuda`` or ``cpu``.
        tiny: Whether to use sizes with which every row takes a moment on a CPU.
        known: Values of earlier rows by name.
        ended: Closes what the rows have opened.
    """

    device: str
    tiny: bool
    known: dict[str, Any] = field(default_factory=dict)
    ended: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @cached_property
    def work(self) -> Path:
        return Path(self.ended.enter_context(tempfile.TemporaryDirectory(prefix="gpu-")))

    @cached_property
    def packed(self) -> tuple[int, ...]:
        return (1, 2) if self.tiny else PACKED

    @cached_property
    def num_texts(self) -> int:
        return 64 if self.tiny else 8192

    @cached_property
    def batch_size(self) -> int:
        return 8 if self.tiny else 64

    def model(self, *, layers: int, hidden: int, heads: int) -> Any:
        """Return a BERT classifier with random weights; MiniLM's width is 384, BERT-base's 768."""
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        hidden, heads = (32, 2) if self.tiny else (hidden, heads)
        config = BertConfig(
            vocab_size=512 if self.tiny else 30522,
            hidden_size=hidden,
            num_hidden_layers=min(layers, 2) if self.tiny else layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=64,
            # A property of its base class, which is not a field of the dataclass.
            num_labels=NUM_LABELS,  # pyright: ignore[reportCallIssue]
        )
        return BertForSequenceClassification(config)

    def student(self) -> Any:
        return self.model(layers=2, hidden=384, heads=12)

    def teacher(self) -> Any:
        return self.model(layers=12, hidden=768, heads=12)

    def split(self, num_texts: int, lengths: tuple[int, int] = (8, 24), seed: int = 0) -> Any:
        """Return random texts of 16 tokens on average, in random order, with the same word pieces for all seeds."""
        from distiltune.training.data.tokenized import from_rows

        random = np.random.default_rng(seed)
        most, num_pieces = (512, 100) if self.tiny else (30522, NUM_PIECES)
        pieces = 5 + np.random.default_rng(0).choice(most - 5, num_pieces, replace=False).astype(np.int32)
        rows = [
            random.choice(pieces, length) for length in random.integers(*lengths, num_texts, endpoint=True)
        ]
        return from_rows(rows, random.integers(0, NUM_LABELS, num_texts))

    def logits(self, num_texts: int) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(num_texts, NUM_LABELS)).astype(np.float32)

    def inputs(self) -> Any:
        """Return the inputs of trials; their student has the key ``student``."""
        from distiltune.search.space.students import ONLY_STUDENT, Student
        from distiltune.search.trial.inputs import TrialInputs
        from distiltune.training.data.tokenized import LabelledSplit

        train = self.split(self.num_texts)
        return TrialInputs(
            students={ONLY_STUDENT: Student("student")},
            train={"train": LabelledSplit(train, self.logits(len(train)))},
            validation=self.split(self.num_texts // 4, seed=2),
            out_of_scope_id=None,
            label_names=[f"label {number}" for number in range(NUM_LABELS)],
        )

    @cached_property
    def trial(self) -> tuple[Any, Any]:
        """Inputs and settings of a trial outside of a search."""
        from distiltune.search.trial.inputs import TrialSettings
        from distiltune.storage.store import Store
        from distiltune.training.distillation.config import TrainingConfig

        folder = self.work / "trial"
        self.student().save_pretrained(folder / "student")
        training, store = TrainingConfig(batch_size=self.batch_size), Store(str(folder))
        names = ("validation_accuracy", "max", store, "search", "tensorboard", "logs")
        settings = TrialSettings(training, *names, num_threads=num_usable_cores(), use_gpu=self.on_gpu)
        return self.inputs(), settings

    @cached_property
    def idle_bytes(self) -> int:
        """Memory in use on the card before the first search of this process."""
        return settled(used_bytes)

    def wait(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()

    def load_libraries(self) -> None:
        """Load the libraries of trainings, which takes long the first time; switch off their progress bars."""
        from transformers.utils import logging

        import distiltune.search.trial.run  # noqa: F401

        logging.disable_progress_bar()

    def start_ray(self) -> None:
        """Start the library's own Ray on this machine, once per process."""
        self.load_libraries()
        import ray

        from distiltune.cluster.session.ray_session import ray_session
        from distiltune.cluster.specification.resources import ResourcesConfig

        if not ray.is_initialized():
            num_cpus = max(self.packed) if self.tiny else None
            self.ended.enter_context(ray_session(ResourcesConfig(num_cpus=num_cpus)))


# --- The machine and its ceilings --------------------------------------------------------------------------------


def machine(bench: Bench) -> dict[str, Any]:
    """Measure the ceilings of the card: the rate of its fastest matrix product, and of a copy in its memory."""
    import torch
    import transformers

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": os.cpu_count(),
    }
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        found |= {"card": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found |= {"cuda": torch.version.cuda, "driver": _driver()}
    size = 256 if bench.tiny else 8192 if bench.on_gpu else 1024
    rates = {}
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
    ):
        if not bench.on_gpu and name in ("tf32", "fp16"):
            continue
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(size, size, device=bench.device).to(dtype) for _ in range(2))
        seconds = _fastest(bench, lambda left=left, right=right: left @ right)
        rates[name] = round(2 * size**3 / seconds / 1e12, 3)
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros((2**20 if bench.tiny else 2**28), dtype=torch.float32, device=bench.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _fastest(bench, lambda: target.copy_(source)) / 1e9
    return {"value": max(rates.values()), "matmul_tflops": rates, "copy_gb_s": round(copied, 1), **found}


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.splitlines()[0].strip()
    return None


def _fastest(bench: Bench, run: Callable[[], Any], repeats: int = 8) -> float:
    """Return the seconds of the fastest run, after some untimed ones."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        bench.wait()
        start = time.perf_counter()
        run()
        bench.wait()
        times.append(time.perf_counter() - start)
    return min(times)


# --- One trial's step --------------------------------------------------------------------------------------------


def step(bench: Bench, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure the steps of a trial, which trains a 2-layer student on cached logits.

    Returns examples/s, kernels per step and the host's share.

    Raises:
        LookupError: This version lacks one of the arguments.
        RuntimeError: The step is to be compiled, but was not.
    """
    build, num_warm_up = partial(trial_trainer, bench, arguments), warm_up_steps(bench, arguments)
    found = train(bench, build, 0.3 if bench.tiny else 4.0, num_warm_up)
    if bench.on_gpu:
        found |= shares_of_step(partial(profile, bench, build, num_warm_up), found["ms_a_step"])
    return found


def shares_of_step(profiled: Callable[[], dict[str, Any]], ms_a_step: float) -> dict[str, Any]:
    """Return the result of a profile and the host's share of a step; if it fails, the reason as ``profile``."""
    try:
        found = profiled()
    except Exception as error:
        return {"profile": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {**found, "host_share": round(max(0.0, 1 - found["gpu_ms_a_step"] / ms_a_step), 3)}


def warm_up_steps(bench: Bench, arguments: dict[str, Any]) -> int:
    """Return the number of steps before those that are measured, in which every shape is compiled."""
    is_compiled = arguments.get("compile_step", False) and not bench.tiny
    return WARM_UP_STEPS_COMPILED if is_compiled else WARM_UP_STEPS


def trial_trainer(bench: Bench, arguments: dict[str, Any], work: Path) -> Any:
    """Return the trainer that a trial with these arguments has.

    Raises:
        LookupError: This version lacks one of the arguments.
    """
    from distiltune.search.trial.run import make_trainer
    from distiltune.training.distillation.arguments import DistillationTrainingArguments

    known = {each.name for each in dataclasses.fields(DistillationTrainingArguments)}
    if missing := sorted(set(arguments) - known):
        raise LookupError(f"not in this version: {', '.join(missing)}")
    return make_trainer(dict(arguments), *bench.trial, work)


def train(
    bench: Bench, build: Callable[[Path], Any], seconds: float, num_warm_up: int = WARM_UP_STEPS
) -> dict[str, Any]:
    """Train for some seconds after the warm-up; return examples/s as ``value``, and details.

    Args:
        bench: The device.
        build: Returns the trainer, which may write to the folder that it gets.
        seconds: Time of the measured steps.
        num_warm_up: Number of steps before them.

    Raises:
        RuntimeError: The step is to be compiled, but was not.
    """
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        begun, steps, elapsed = 0.0, 0, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == num_warm_up:
                bench.wait()
                self.begun = time.perf_counter()
            elif state.global_step > num_warm_up:
                self.steps += 1
                if time.perf_counter() - self.begun > seconds:
                    bench.wait()
                    self.elapsed = time.perf_counter() - self.begun
                    control.should_training_stop = True

    clock = Clock()
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer = _run_trainer(bench, build, clock)
    args, size = trainer.args, trainer.args.train_batch_size
    found = {
        "value": round(size * clock.steps / clock.elapsed, 1),
        "ms_a_step": round(1000 * clock.elapsed / clock.steps, 3),
        "batch_size": size,
        "precision": "bf16" if args.bf16 else "tf32" if args.tf32 else "fp32",
    }
    if bench.on_gpu:
        found["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    if args.compile_step:
        found["graphs_skipped"] = _skipped_graphs()
    return found


def _run_trainer(bench: Bench, build: Callable[[Path], Any], callback: Any) -> Any:
    """Train until the callback stops it; return the trainer.

    Raises:
        RuntimeError: The step is to be compiled, but was not.
    """
    from transformers.trainer_utils import SaveStrategy

    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        trainer = build(Path(folder))
        trainer.args.max_steps, trainer.args.save_strategy = 10**6, SaveStrategy.NO
        trainer.add_callback(callback)
        trainer.train()
    compiled = trainer.compiled_model
    if compiled is not None and compiled.failure is not None:
        raise RuntimeError(f"the step was not compiled: {compiled.failure}")
    return trainer


def _skipped_graphs() -> int:
    """Return how many graphs PyTorch compiled without recording them as CUDA graphs, of which it only logs a hint."""
    from torch._dynamo.utils import counters

    return counters["inductor"]["cudagraph_skips"]


def profile(bench: Bench, build: Callable[[Path], Any], num_warm_up: int) -> dict[str, Any]:
    """Profile a few steps; return the kernels and copies per step, and the GPU's time in them.

    Raises:
        LookupError: The profiler recorded nothing.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled
    from transformers import TrainerCallback

    recorder = profiled(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])
    first = num_warm_up + 2

    class Window(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == first:
                bench.wait()
                recorder.start()
            elif state.global_step == first + PROFILED_STEPS:
                bench.wait()
                recorder.stop()
                control.should_training_stop = True

    _run_trainer(bench, build, Window())
    return per_step(recorder.events() or [])


def per_step(events: Sequence[Any]) -> dict[str, Any]:
    """Return the GPU's work per step from the profiler's events, without those that only mark the host's code.

    Raises:
        LookupError: There is none.
    """
    on_device = [
        each
        for each in events
        if "CUDA" in str(each.device_type)
        and not getattr(each, "is_user_annotation", False)
        and not each.name.startswith(_MARKS)
    ]
    if not on_device:
        raise LookupError("the profiler recorded nothing on the GPU")
    kernels = [each for each in on_device if not each.name.startswith(_MOVES)]
    copies = [each for each in on_device if each.name.startswith("Memcpy")]
    busy = sum(each.time_range.elapsed_us() for each in on_device)
    return {
        "kernels_a_step": round(len(kernels) / PROFILED_STEPS, 1),
        "copies_a_step": round(len(copies) / PROFILED_STEPS, 1),
        "gpu_ms_a_step": round(busy / 1000 / PROFILED_STEPS, 3),
    }


# --- Trials that share a GPU -------------------------------------------------------------------------------------


def trials(
    bench: Bench,
    num_packed: int,
    *,
    mps: Mapping[str, str] | None = None,
    checkpoint_every_s: float = 0.0,
) -> dict[str, Any]:
    """Measure trials/hour of the library's own search with warm workers, and the peak of the card's memory."""
    from distiltune.search.config import SearchConfig
    from distiltune.search.driver.gpu_sharing import packing_key
    from distiltune.search.driver.run_search import run_search
    from distiltune.storage.store import Store
    from distiltune.training.distillation.config import TrainingConfig

    bench.start_ray()
    folder = bench.work / f"search-{num_packed}-{time.monotonic_ns()}"
    folder.mkdir()
    bench.student().save_pretrained(folder / "student")
    inputs = bench.inputs()
    num_trials, num_epochs = 2 * num_packed, _epochs(bench)
    config = SearchConfig.model_validate(
        {
            "num_trials": num_trials,
            "num_startup_trials": num_trials,
            "sampler": "random",
            "max_concurrent_trials": num_packed,
            "space": {"num_train_epochs": num_epochs, "temperature": 4.0},
        }
    )
    cores = max(num_usable_cores(), num_packed) if bench.tiny else num_usable_cores()
    store = Store(str(folder))
    with memory_peak(bench) as peak:
        began = time.monotonic()
        outcome = run_search(
            config,
            TrainingConfig(max_length=24, batch_size=bench.batch_size),
            inputs,
            store=store,
            experiment="search",
            tensorboard="tensorboard",
            logs="logs",
            cpus_per_trial=max(0.01, min(1.0, cores / num_packed)),
            # A whole GPU is not probed; with a little less, one trial has a GPU for itself, and is.
            gpus_per_trial=min(0.99, 1 / num_packed) if bench.on_gpu else 0,
            mps=mps,
            checkpoint_every_s=checkpoint_every_s,
        )
        wall_s = time.monotonic() - began
    used = shared_by(store.read_json(packing_key("search")), num_packed, peak().get("peak_mib"))
    shutil.rmtree(folder, ignore_errors=True)
    finished = [
        (each.ended, each.seconds)
        for each in outcome.trials
        if each.state == "finished" and each.ended is not None
    ]
    if not finished:
        raise RuntimeError(f"no trial finished: {outcome.trials[0].reason}")
    return {
        "value": round(3600 * trials_per_s([ended for ended, _ in finished], used["packing"], wall_s), 1),
        "trials": len(finished),
        "epochs": num_epochs,
        "examples_a_trial": num_epochs * bench.num_texts,
        "seconds_a_trial": round(float(np.median([seconds for _, seconds in finished])), 2),
        "wall_s": round(wall_s, 1),
        **peak(),
        **used,
    }


def shared_by(record: Mapping[str, Any] | None, num_packed: int, peak_mib: float | None) -> dict[str, Any]:
    """Return how many trials shared a GPU, and the memory of each: by the search's probe, and as measured.

    The search lowers the number if fewer trials fit.

    Args:
        record: The search's record of its packing; None if it made none, as for whole GPUs.
        num_packed: Requested number of trials on a GPU.
        peak_mib: Measured peak of all of them together.
    """
    packing = num_packed if record is None else math.floor(1 / record["gpus"] + 1e-6)
    found: dict[str, Any] = {"packing": packing}
    if peak_mib is not None:
        found["peak_mib_a_trial"] = round(peak_mib / packing)
    probed = [] if record is None else [each["peak"] for each in record["memory"] if each["peak"] is not None]
    if probed:
        found["probe_mib_a_trial"] = round(max(probed) / 2**20)
        if peak_mib:
            found["probe_by_peak"] = round(max(probed) / 2**20 * packing / peak_mib, 3)
    return found


def trials_per_s(ended: Sequence[float], num_packed: int, wall_s: float) -> float:
    """Return the trials per second after the first round, in which workers start and load their libraries.

    Args:
        ended: Time at which each trial ended, in s.
        num_packed: Number of trials in a round.
        wall_s: Duration of the whole search, used if there was no second round.
    """
    in_order = sorted(ended)
    later = in_order[num_packed - 1 :]
    if len(later) < 2 or later[-1] <= later[0]:
        return len(ended) / wall_s
    return (len(later) - 1) / (later[-1] - later[0])


def _epochs(bench: Bench) -> int:
    """Return the number of epochs whose steps take ``_TRIAL_S`` in a trial alone, at the rate measured before."""
    rate = bench.known.get(f"step: {next(iter(STEPS))}")
    if bench.tiny or rate is None:
        return 1 if bench.tiny else 4
    return int(np.clip(round(_TRIAL_S * rate / bench.num_texts), 1, _MOST_EPOCHS))


def used_bytes() -> int:
    """Return the memory in use on the card, by all processes."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def settled(used: Callable[[], int], seconds: float = 15.0, still_s: float = 2.0) -> int:
    """Return the memory in use once it has not fallen for a while: processes of the row before may still be ending."""
    end, lowest, since = time.monotonic() + seconds, used(), time.monotonic()
    while time.monotonic() < min(end, since + still_s):
        time.sleep(still_s / 10)
        if (now := used()) < lowest:
            lowest, since = now, time.monotonic()
    return lowest


def is_idle(used: Callable[[], int], idle: int, seconds: float = 15.0) -> bool:
    """Wait until the card uses no more memory than when it was idle; return whether it does."""
    end = time.monotonic() + seconds
    while used() > idle + _NOISE_BYTES:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def memory_peak(bench: Bench) -> Iterator[Callable[[], dict[str, Any]]]:
    """Sample the card's used memory during the block; yield a function that returns its rise, ``peak_mib``.

    If processes of the row before do not end, the function returns that instead.
    """
    if not bench.on_gpu:
        yield dict
        return
    before, most, end = bench.idle_bytes, [0], threading.Event()
    if not is_idle(used_bytes, before):
        yield lambda: {"peak": "not measured, the card was not idle"}
        return

    def sample() -> None:
        while not end.wait(0.1):
            most[0] = max(most[0], used_bytes() - before)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: {"peak_mib": round(most[0] / 2**20)}
    finally:
        end.set()
        sampler.join()


def with_mps(bench: Bench, num_packed: int) -> dict[str, Any]:
    """Measure trials/hour with NVIDIA's Multi-Process Service, in which kernels of several processes run side by side.

    Raises:
        LookupError: Its program is not on this machine.
        RuntimeError: The service did not start.
    """
    from distiltune.cluster.session.mps import mps_daemons

    if not bench.on_gpu or shutil.which(MPS) is None:
        raise LookupError(f"{MPS} is not on this machine")
    bench.start_ray()
    with mps_daemons(wanted=True) as mps:
        if not mps:
            raise RuntimeError(f"{MPS} did not start")
        return trials(bench, num_packed, mps=mps)


# --- Labelling, fine-tuning, latency -----------------------------------------------------------------------------


def labelling(bench: Bench, dtype: str) -> dict[str, Any]:
    """Measure texts/s of 16 tokens that a BERT-base teacher labels, like a job's stage ``logits``."""
    from distiltune.training.models.inference import compute_logits
    from distiltune.training.models.passes import MOST_TOKENS

    model = bench.teacher().eval()
    label = partial(compute_logits, model, pad_token_id=0, num_threads=num_usable_cores(), dtype=dtype)
    # On a GPU several batches as large as they get, so that one runs while the last one is copied.
    num_texts = 64 if bench.tiny else 131_072 if bench.on_gpu else 4096
    label(bench.split(min(num_texts, MOST_TOKENS // 16), (16, 16)), use_gpu=bench.on_gpu)
    seconds, rates = 0.0, []
    for seed in itertools.count(1):
        split = bench.split(num_texts, (16, 16), seed)
        start = time.perf_counter()
        label(split, use_gpu=bench.on_gpu)
        seconds += time.perf_counter() - start
        rates.append(num_texts / (time.perf_counter() - start))
        if seconds > (0.2 if bench.tiny else 3.0):
            break
    return {"value": round(float(np.median(rates)), 1), "num_texts": num_texts, "runs": len(rates)}


def fine_tuning(bench: Bench) -> dict[str, Any]:
    """Measure examples/s of fine-tuning BERT-base on labels only, as a job trains its teacher."""
    from distiltune.training.models.first_token import first_token_in_last_layer
    from distiltune.training.tasks import SINGLE_LABEL
    from distiltune.training.teacher.config import ScratchConfig
    from distiltune.training.teacher.initial import InitialTeacher
    from distiltune.training.teacher.trainer import teacher_trainer

    recipe = ScratchConfig(batch_size=bench.batch_size)
    initial = InitialTeacher(bench.teacher(), SimpleNamespace(pad_token_id=0), recipe, SINGLE_LABEL)
    split = bench.split(bench.num_texts)

    def build(work: Path) -> Any:
        return teacher_trainer(initial, split, 0, work, [], saves=False, use_gpu=bench.on_gpu)

    with first_token_in_last_layer(initial.model):
        return train(bench, build, 0.3 if bench.tiny else 4.0)


def latency(bench: Bench, kind: str) -> dict[str, Any]:
    """Measure the 2-layer student from text to label: ms of one text, and texts/s by batch size.

    Raises:
        LookupError: The runtime is not installed.
    """
    from distiltune.errors import DistiltuneError, first_line
    from distiltune.export.benchmark import targets
    from distiltune.export.benchmark.measurements import PerformanceBenchmark
    from distiltune.export.benchmark.targets.base import OpenOptions

    target = targets.get(kind)
    if (reason := target.missing()) is not None:
        raise LookupError(reason)
    directory, texts = _checkpoint(bench)
    if target.is_onnx:
        directory = _variant(bench, directory, _VARIANTS[kind])
    opened = target.open(OpenOptions(str(directory), 24, None, num_usable_cores(), None))
    measured = PerformanceBenchmark(
        opened.pipeline,
        texts,
        ["label 0"] * len(texts),
        label_names=[f"label {number}" for number in range(NUM_LABELS)],
        batch_sizes=[1, 4] if bench.tiny else BATCH_SIZES,
        num_warmups=2 if bench.tiny else 20,
        num_runs=5 if bench.tiny else 100,
        num_sample_texts=len(texts),
    )
    found: dict[str, Any] = {"value": round(measured.time_pipeline()["p50"], 4)}
    found["texts_s"] = {size: round(rate, 1) for size, rate in measured.compute_throughput().items()}
    found |= {"nodes": opened.num_nodes, "engine_build_s": opened.engine_build_s}
    if opened.with_cuda_graphs is not None:
        measured = copy.copy(measured)
        try:
            measured.pipeline = opened.with_cuda_graphs()
            found["cuda_graphs_p50_ms"] = round(measured.time_pipeline()["p50"], 4)
            found["cuda_graphs_texts_s"] = measured.compute_throughput()
        except DistiltuneError as error:  # such as a graph with nodes on the CPU; the other figures stand
            found["cuda_graphs"] = first_line(error)
    return {name: value for name, value in found.items() if value is not None}


_VARIANTS = {"onnx": "onnx", "cuda": "onnx-fused-fp16", "tensorrt": "onnx-tensorrt-fp16"}
"""The variant that each ONNX target measures."""


def _checkpoint(bench: Bench) -> tuple[Path, list[str]]:
    """Write the student with a tokenizer of whole words, once; return its folder and texts of 16 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from distiltune.training.checkpoints.load import save_checkpoint

    model, folder = bench.student(), bench.work / "student"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"w{number}" for number in range(model.config.vocab_size - len(special))]
    if not folder.exists():
        vocabulary = {word: number for number, word in enumerate([*special, *words])}
        own = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        own.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=own, **{f"{name}_token": token for name, token in names.items()}
        )
        model.config.id2label = {number: f"label {number}" for number in range(NUM_LABELS)}
        model.config.label2id = {label: number for number, label in model.config.id2label.items()}
        save_checkpoint(model, tokenizer, folder)
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(words, 14)) for _ in range(8 if bench.tiny else 1024)]
    return folder, texts


def _variant(bench: Bench, student: Path, name: str) -> Path:
    from distiltune.export.variants.build import build_variant
    from distiltune.export.variants.config import VariantsConfig

    folder = bench.work / name
    if not folder.exists():
        build_variant(name, student, folder, config=VariantsConfig(), max_length=24)
    return folder


# --- The table ---------------------------------------------------------------------------------------------------


def table_of_rows(*, device: str, tiny: bool) -> list[Row]:
    """Return every row, the most important first: one of every kind, then what else each kind has."""
    bench = Bench(device, tiny)
    at_once = "trials sharing a GPU" if bench.on_gpu else "trials at once"
    kinds = ("torch-cuda", "cuda", "tensorrt") if bench.on_gpu else ("pytorch", "onnx")

    def steps(titles: Sequence[str], process: str, seconds: float = 30) -> list[Row]:
        return [
            Row(f"step: {title}", "examples/s", seconds, process, partial(step, arguments=STEPS[title]))
            for title in titles
        ]

    def packed(count: int, process: str, name: str = "", run: Callable[..., Any] = trials) -> Row:
        # The first has the start of Ray's workers.
        seconds = 100 if count == 1 else 60 + 4 * count
        title, run = f"{count} {at_once}{name}", partial(run, num_packed=count)
        return Row(title, "trials/hour", seconds, process, run, Bench.start_ray)

    def served(count: int, process: str) -> list[Row]:
        return [packed(count, process, ", MPS", with_mps)] if bench.on_gpu else []

    def latencies(names: Sequence[str]) -> list[Row]:
        # PyTorch can set its threads only once per process.
        process = {name: "latency" if name in _VARIANTS else f"latency of {name}" for name in names}
        return [
            Row(f"latency: {name}", "ms", 60, process[name], partial(latency, kind=name)) for name in names
        ]

    def labelled(dtype: str, process: str) -> Row:
        return Row(f"labelling, {dtype}", "texts/s", 40, process, partial(labelling, dtype=dtype))

    titles, counts = [title for title in STEPS if "compile" not in title], bench.packed
    compiled = steps([title for title in STEPS if "compile" in title], "compiled", 150)
    rarely = partial(trials, checkpoint_every_s=CHECKPOINT_EVERY_S)
    return [
        Row("machine", "TFLOP/s", 40, "training", machine),
        *steps(titles[:_FIRST], "training"),
        *[packed(count, "search") for count in counts[:2]],
        *served(counts[1], "search"),
        *[packed(count, "search") for count in counts[2:_FIRST]],
        labelled("bfloat16", "labelling"),
        Row("fine-tuning", "examples/s", 30, "labelling", fine_tuning),
        *latencies(kinds[:2]),
        *(compiled if bench.on_gpu else []),
        packed(counts[1], "more searches", f", checkpoints every {CHECKPOINT_EVERY_S} s", rarely),
        *[packed(count, "more searches") for count in counts[_FIRST:]],
        *served(16, "more searches"),
        *steps(titles[_FIRST:], "more training"),
        labelled("float32", "more labelling"),
        *latencies(kinds[2:]),
        *([] if bench.on_gpu else compiled),  # on a CPU it takes longer than all others together
    ]
