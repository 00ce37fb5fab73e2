"""Compare examples/s of distillation: a textbook trainer, distiltune with several settings, and a bare loop.

    python benchmarks/training.py --data data_oos_plus.json [--encoder offline:all-MiniLM-L6-v2]
        [--layers 0 5] [--steps 60] [--repeats 3] [--threads 2] [--json FILE]

The peer is a plain ``transformers.Trainer`` subclass as in chapter 8 of "Natural Language Processing with
Transformers": online teacher, batch 48, transformers' defaults (fp32, random order, padding to the longest text of
a batch). Every row trains a student made of ``--layers`` of the encoder. The teacher's head is untrained, since speed
does not depend on its accuracy. All rows are measured in one run, each ``--repeats`` times, interleaved with the
others and after untimed warm-up steps; medians are shown.

"Library defaults" (with cached logits) are those of a job's section ``training``, except for the number of steps, for
saving, which is off in every row, and for the texts, which stay on the host also with a GPU. The two rows below keep
them on the device, and also pad batches to multiples of 8. Each bare loop has the settings of one of our rows and is
compared with that row only.

"of matmul" is the model's own arithmetic over the rate that the machine reaches in a 2048 x 2048 x 2048 matrix product
of the row's type, measured in the same run with the same number of threads. Counted are 6 x (weights of the linear
layers) x tokens for training the student (pooler and classifier read one token per text), and 2 x for running a
teacher, for tokens without padding; not counted are softmax, norms, attention scores and the optimizer.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from distiltune.export.machine import describe_machine
from distiltune.training.checkpoints.load import resolve_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.sampling import LengthGroupedSampler
from distiltune.training.data.tokenized import TokenizedDataset, tokenize_split
from distiltune.training.distillation.arguments import (
    DistillationTrainingArguments,
    arguments_from_config,
    hardware_has_bf16,
)
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.losses import distillation_loss
from distiltune.training.distillation.trainer import DistillationTrainer

WARM_UP_STEPS = 5
ALPHA, TEMPERATURE, LEARNING_RATE = 0.5, 4.0, 6e-4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Row:
    """A way to train and its settings; ``kind`` selects the function that runs it."""

    name: str
    batch_size: int
    online: bool = False
    bf16: bool = False
    frozen: bool = False
    kind: str = "ours"
    grouped: bool = False

    @property
    def settings(self) -> tuple[Any, ...]:
        """Settings that a bare loop shares with the row it is compared with."""
        return self.batch_size, self.online, self.bf16, self.frozen, self.grouped


DEFAULTS = TrainingConfig()
# The default of the library: bf16 if the hardware multiplies it.
AUTO_BF16 = hardware_has_bf16(use_cpu=DEVICE.type == "cpu")

ROWS = [
    Row("transformers.Trainer, online teacher (peer)", 48, online=True, kind="peer"),
    Row("ours, online teacher", 48, online=True),
    Row("ours, cached logits", 48),
    Row("ours, library defaults", DEFAULTS.batch_size, bf16=AUTO_BF16, grouped=True, kind="defaults"),
    Row("  with texts on the device", DEFAULTS.batch_size, bf16=AUTO_BF16, grouped=True, kind="on_device"),
    Row("  and padded to multiples of 8", DEFAULTS.batch_size, bf16=AUTO_BF16, grouped=True, kind="multiple"),
    Row("bare loop, library defaults", DEFAULTS.batch_size, bf16=AUTO_BF16, grouped=True, kind="bare"),
    Row("ours, batch 128, bf16, grouped", 128, bf16=True, grouped=True),
    Row("bare loop, batch 128, bf16, grouped", 128, bf16=True, grouped=True, kind="bare"),
    Row("ours, batch 128, bf16, grouped, frozen", 128, bf16=True, grouped=True, frozen=True),
    Row(
        "bare loop, batch 128, bf16, grouped, frozen", 128, bf16=True, grouped=True, frozen=True, kind="bare"
    ),
]


@dataclass(frozen=True)
class Setting:
    """The models, texts, logits and number of steps that all rows share."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: Any
    split: Any
    logits: np.ndarray
    steps: int


class StepClock(TrainerCallback):
    """Seconds from the end of the warm-up to the end of the last step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @property
    def seconds(self) -> float:
        return self.times[1] - self.times[0]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP_STEPS, state.max_steps):
            _wait()
            self.times.append(time.perf_counter())


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


# ---- The three ways to train ----------------------------------------------------------------------------


class BookArguments(TrainingArguments):
    def __init__(self, *args: Any, alpha: float = 0.5, temperature: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.temperature = temperature


class BookTrainer(Trainer):
    """The peer, as in the book, without distiltune."""

    args: BookArguments

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
            F.log_softmax(student.logits / temperature, dim=-1),
            F.softmax(teacher.logits / temperature, dim=-1),
        )
        loss = self.args.alpha * student.loss + (1.0 - self.args.alpha) * soft
        return (loss, student) if return_outputs else loss


def run_peer(row: Row, setting: Setting, output_dir: str) -> float:
    clock = StepClock()
    args = BookArguments(
        output_dir=output_dir,
        alpha=ALPHA,
        temperature=TEMPERATURE,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=row.batch_size,
        max_steps=setting.steps,
        weight_decay=0.01,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        use_cpu=DEVICE.type == "cpu",
    )
    trainer = BookTrainer(
        model=copy.deepcopy(setting.student),
        args=args,
        teacher_model=setting.teacher,
        train_dataset=_PlainRows(setting.split),
        data_collator=DataCollatorWithPadding(setting.tokenizer),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds


def run_ours(row: Row, setting: Setting, output_dir: str) -> float:
    args = DistillationTrainingArguments(
        output_dir=output_dir,
        alpha=ALPHA,
        temperature=TEMPERATURE,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=row.batch_size,
        max_steps=setting.steps,
        weight_decay=0.01,
        bf16=row.bf16,
        train_sampling_strategy="group_by_length" if row.grouped else "random",
        freeze_embeddings=row.frozen,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    return _run_trainer(args, row, setting)


def run_defaults(row: Row, setting: Setting, output_dir: str) -> float:
    args = arguments_from_config(
        DEFAULTS, output_dir, max_steps=setting.steps, save_strategy="no", **_OPTIONS.get(row.kind, {})
    )
    grouped = args.train_sampling_strategy == "group_by_length"
    found = (args.train_batch_size, False, args.bf16, args.freeze_embeddings, grouped)
    assert found == row.settings, "the settings of the row are the library's defaults"
    return _run_trainer(args, row, setting)


# Changes to the library's defaults, by the kind of row.
_OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {"data_on_device": False},
    "on_device": {"data_on_device": True},
    "multiple": {"data_on_device": True, "pad_to_multiple_of": 8},
}


def _run_trainer(args: DistillationTrainingArguments, row: Row, setting: Setting) -> float:
    clock = StepClock()
    trainer = DistillationTrainer(
        model=copy.deepcopy(setting.student),
        args=args,
        teacher_model=setting.teacher if row.online else None,
        train_dataset=TokenizedDataset(setting.split, None if row.online else setting.logits),
        processing_class=setting.tokenizer,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds


def run_bare(row: Row, setting: Setting, output_dir: str) -> float:
    """Train without a trainer, with the same batches, precision, loss, clipping and optimizer; return the seconds."""
    model = copy.deepcopy(setting.student).train()
    # transformers wraps `to`, so that the checker takes the device for `self`.
    model.to(DEVICE)  # pyright: ignore[reportArgumentType]
    if row.frozen:
        model.base_model.embeddings.requires_grad_(False)
    sampler = LengthGroupedSampler(setting.split.lengths, row.batch_size, seed=42)
    loader = DataLoader(
        TokenizedDataset(setting.split, setting.logits),
        batch_size=row.batch_size,
        sampler=sampler,
        collate_fn=DistillationCollator(setting.tokenizer.pad_token_id),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and _decays(n)]
    others = [p for n, p in model.named_parameters() if p.requires_grad and not _decays(n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / setting.steps)
    start, done = 0.0, 0
    for epoch in range(setting.steps):
        sampler.set_epoch(epoch)
        for batch in loader:
            batch = {name: value.to(DEVICE) for name, value in batch.items()}
            labels, teacher_logits = batch.pop("labels"), batch.pop("teacher_logits")
            with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=row.bf16):
                logits = model(**batch).logits
            loss = distillation_loss(logits, teacher_logits, labels, alpha=ALPHA, temperature=TEMPERATURE)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done == WARM_UP_STEPS:
                _wait()
                start = time.perf_counter()
            if done == setting.steps:
                _wait()
                return time.perf_counter() - start
    raise AssertionError("the loop returns after setting.steps")


def _decays(name: str) -> bool:
    return "bias" not in name and "LayerNorm" not in name


class _PlainRows(torch.utils.data.Dataset):
    """Rows of lists, like those of a tokenized hub dataset."""

    def __init__(self, split: Any) -> None:
        self.rows = [
            {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(split.labels[index])}
            for index, ids in ((index, split.row(index).tolist()) for index in range(len(split)))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


# ---- Setting up and counting ----------------------------------------------------------------------------


def make_setting(data: Path, encoder: str, layers: list[int], steps: int) -> Setting:
    corpus = json.loads(data.read_text(encoding="utf-8"))
    pairs = [*corpus["train"], *corpus.get("oos_train", [])]
    names = sorted({label for _, label in pairs})
    directory = resolve_checkpoint(encoder)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=len(names)).eval()
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    student = AutoModelForSequenceClassification.from_config(config)
    student.load_state_dict(teacher.state_dict(), strict=False)
    for index, layer in enumerate(layers):
        own, other = student.base_model.encoder.layer[index], teacher.base_model.encoder.layer[layer]
        own.load_state_dict(other.state_dict())
    split = tokenize_split(
        [text for text, _ in pairs], [names.index(label) for _, label in pairs], tokenizer, 64
    )
    # Speed does not depend on the values of the logits, and a trial does not compute them.
    logits = np.random.default_rng(0).normal(size=(len(split), len(names))).astype(np.float32)
    return Setting(teacher, student, tokenizer, split, logits, steps)


def flops_per_example(model: nn.Module, mean_tokens: float, passes: int) -> float:
    """Return ``passes`` x (weights of the linear layers) x tokens; ``passes`` is 6 for training, 2 for running."""
    inside = outside = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if ".layer." in name:
                inside += module.weight.numel()
            else:
                outside += module.weight.numel()
    return passes * (inside * mean_tokens + outside)


def matmul_gflops(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    rates = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        torch.matmul(left, right)
        _wait()
        rates.append(2 * size**3 / (time.perf_counter() - start) / 1e9)
    return max(rates)


def measure(setting: Setting, repeats: int, rows: list[Row]) -> dict[str, Any]:
    run = {"peer": run_peer, "ours": run_ours, "bare": run_bare} | dict.fromkeys(_OPTIONS, run_defaults)
    rates: dict[str, list[float]] = {row.name: [] for row in rows}
    products: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for repeat in range(repeats):
        products["fp32"].append(matmul_gflops(torch.float32))
        products["bf16"].append(matmul_gflops(torch.bfloat16))
        # Alternate the order, so that a machine that warms up or slows down favours no row.
        for row in rows if repeat % 2 == 0 else rows[::-1]:
            with tempfile.TemporaryDirectory() as output_dir:
                seconds = run[row.kind](row, setting, output_dir)
            rates[row.name].append(row.batch_size * (setting.steps - WARM_UP_STEPS) / seconds)
    matmul = {name: statistics.median(values) for name, values in products.items()}
    mean_tokens = float(np.mean(setting.split.lengths))
    peer = statistics.median(rates[rows[0].name])
    table = []
    for row in rows:
        rate = statistics.median(rates[row.name])
        flops = flops_per_example(setting.student, mean_tokens, 6)
        if row.online:
            flops += flops_per_example(setting.teacher, mean_tokens, 2)
        table.append(
            {
                "name": row.name,
                "batch_size": row.batch_size,
                "precision": "bf16" if row.bf16 else "fp32",
                "examples_per_s": rate,
                "examples_per_s_runs": rates[row.name],
                "ratio_to_peer": rate / peer,
                "gflops": rate * flops / 1e9,
                "of_matmul": rate * flops / 1e9 / matmul["bf16" if row.bf16 else "fp32"],
            }
        )
    medians = {row["name"]: row["examples_per_s"] for row in table}
    shares = {}
    for bare in (row for row in rows if row.kind == "bare"):
        (own,) = (row for row in rows if row.kind in ("ours", "defaults") and row.settings == bare.settings)
        shares[own.name] = medians[own.name] / medians[bare.name]
    return {"matmul_gflops": matmul, "mean_tokens": mean_tokens, "rows": table, "of_bare_loop": shares}


def show(result: dict[str, Any]) -> None:
    machine = result["machine"]
    print(
        f"{machine['cpu']}, {machine['device']}, {machine['threads']} threads; torch {machine['torch']}, ",
        end="",
    )
    print(
        f"transformers {machine['transformers']}; student layers {machine['layers']} of {machine['encoder']}; ",
        end="",
    )
    print(f"{machine['steps']} steps x {machine['repeats']} runs, medians")
    matmul = result["matmul_gflops"]
    print(
        f"matmul: {matmul['fp32']:.0f} GFLOP/s fp32, {matmul['bf16']:.0f} bf16; "
        f"{result['mean_tokens']:.1f} tokens a text\n"
    )
    print(f"{'':44}{'batch':>6}{'type':>6}{'examples/s':>12}{'x peer':>8}{'GFLOP/s':>9}{'of matmul':>11}")
    for row in result["rows"]:
        print(
            f"{row['name']:44}{row['batch_size']:>6}{row['precision']:>6}{row['examples_per_s']:>12.0f}"
            f"{row['ratio_to_peer']:>8.2f}{row['gflops']:>9.0f}{row['of_matmul']:>11.1%}"
        )
    for name, share in result["of_bare_loop"].items():
        print(f"{share:.1%} of the bare loop with the same settings: {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a file in CLINC150's own JSON format")
    parser.add_argument("--encoder", default="offline:all-MiniLM-L6-v2", help="a BERT: directory or hub id")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 5], help="encoder layers of the student")
    parser.add_argument(
        "--steps", type=int, default=60, help=f"steps per run, {WARM_UP_STEPS} of them untimed"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs per row")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if given.steps <= WARM_UP_STEPS:
        parser.error(f"--steps is {given.steps}; accepted: above {WARM_UP_STEPS}")
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    setting = make_setting(given.data, given.encoder, given.layers, given.steps)
    result = measure(setting, given.repeats, ROWS)
    result["machine"] = {
        "cpu": describe_machine()["cpu"],
        "device": torch.cuda.get_device_name(torch.cuda.current_device())
        if DEVICE.type == "cuda"
        else "CPU only",
        "threads": given.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "encoder": given.encoder,
        "layers": given.layers,
        "steps": given.steps,
        "repeats": given.repeats,
    }
    show(result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
