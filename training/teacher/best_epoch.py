"""The best epoch of a teacher's training: its weights, kept in memory and in the training's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from ...progress import Progress, ReportProgress
from ..tasks import Mode, title_of

_WEIGHTS, _RECORD = "best.safetensors", "best.json"


class BestEpoch(TrainerCallback):
    """Keep the weights of the epoch that is best in a metric on the validation split; on ties, the first."""

    def __init__(
        self,
        model: PreTrainedModel,
        measure: Callable[[], dict[str, Any]],
        report: ReportProgress | None,
        metric: str,
        mode: Mode,
        doing: str = "training",
    ) -> None:
        self._model = model
        self._doing = doing
        self._measure = measure  # not the trainer's evaluation, which uses the training precision
        self._report = report
        self._metric, self._sign = f"validation_{metric}", 1 if mode == "max" else -1
        self._title = f"validation {title_of(metric)}"
        self._weights: dict[str, Tensor] = {}
        self.epochs: list[dict[str, float]] = []
        self.number: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report which epoch begins; a resumed training has completed some already."""
        self._report_epochs(args)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after each epoch, and keep the weights if they are the best so far."""
        found = {f"validation_{name}": value for name, value in self._measure().items()}
        epoch = {"epoch": float(state.epoch or 0)}
        epoch |= {name: found[name] for name in ("validation_accuracy", self._metric) if name in found}
        value = self._sign * epoch[self._metric]
        if all(value > self._sign * earlier[self._metric] for earlier in self.epochs):
            self.number = epoch["epoch"]
            self._weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self.epochs.append(epoch)
        self._report_epochs(args, epoch)

    def _report_epochs(self, args: Any, last: dict[str, float] | None = None) -> None:
        """Report the epoch in progress, and the metric of the last one that ended."""
        if self._report is None:
            return
        done, total = len(self.epochs), int(args.num_train_epochs)
        now = (
            f"epoch {done + 1} of {total}, {self._doing} the teacher"
            if done < total
            else f"{done} epochs done"
        )
        reached = "" if last is None else f"{self._title} {last[self._metric]:.4f}"
        reached += f" after epoch {done}" if reached and done < total else ""
        message = "; ".join(filter(None, [now, reached]))
        self._report(Progress(message, {**(last or {}), "done": done, "total": total}))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the best epoch to the checkpoint."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        save_file({name: value.contiguous() for name, value in self._weights.items()}, folder / _WEIGHTS)
        record = {"epochs": self.epochs, "best_epoch": self.number}
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Load what ``on_save`` added to a checkpoint."""
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        self.epochs, self.number = record["epochs"], record["best_epoch"]
        self._weights = load_file(folder / _WEIGHTS)

    def restore(self) -> None:
        """Restore the best epoch's weights."""
        self._model.load_state_dict(self._weights)
