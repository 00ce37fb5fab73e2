"""Simulated trials: they report and save what a training would, without training."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINT_FILES = (
    *("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth"),
    *("scheduler.pt", "trainer_state.json", "training_args.bin"),
)


def epoch_metrics(arguments: dict[str, Any], number: int, epoch: int) -> dict[str, float]:
    """Return what an epoch reports: its accuracy rises over the epochs, to a value that depends on the arguments."""
    distance = (
        0.10 * (arguments["alpha"] - 0.3) ** 2
        + 0.0002 * (arguments["temperature"] - 8) ** 2
        + 0.02 * math.log10(arguments["learning_rate"] / 6e-4) ** 2
    )
    noise = 0.002 * math.sin(12.9898 * number + 78.233 * epoch)
    accuracy = 0.95 - distance - 0.3 * math.exp(-1.2 * epoch) + noise
    return {
        "train_loss": 1.0 - accuracy,
        "train_cross_entropy": 1.2 * (1.0 - accuracy),
        "train_distillation": 0.8 * (1.0 - accuracy),
        "examples_per_second": 1000.0,
        "validation_loss": 1.1 * (1.0 - accuracy),
        "validation_accuracy": accuracy,
        "validation_in_scope_accuracy": accuracy,
        "validation_oos_recall": accuracy - 0.2,
    }


def simulated_trial(
    epoch_seconds: float, metrics_of: Callable[[dict[str, Any], int, int], dict[str, float]] = epoch_metrics
) -> Callable[..., None]:
    """Return a replacement for ``run_trial``, a closure: workers receive it by value and do not import torch.

    Args:
        epoch_seconds: Duration of an epoch.
        metrics_of: Called with a trial's arguments, its number and the epoch; returns what the epoch reports. A
            ValueError fails the trial, as a loss that is not finite does.
    """

    def run_trial(config: dict[str, Any], inputs: Any, settings: Any) -> None:
        from ray import tune

        from distiltune.search.space.space import metrics_of as metrics_of_task
        from distiltune.search.trial.checkpoints import (
            checkpoint_key,
            thinned,
            upload_files,
            upload_record,
            write_epoch,
        )
        from distiltune.search.trial.events import TrialEvents, best_tag, tag_of
        from distiltune.search.trial_record import trial_name
        from distiltune.storage.logs import LogWriter

        began, began_cpu = time.monotonic(), time.process_time()
        store, arguments = settings.store, config["arguments"]
        trial_id, saved = trial_name(config["number"]), []
        store.write_json(f"{settings.experiment}/{trial_id}/begun.json", arguments)
        log = LogWriter(store, f"{settings.logs}/{trial_id}")
        log.write(f"trial {trial_id}\narguments: {json.dumps(arguments)}\n")
        events = TrialEvents(store, f"{settings.tensorboard}/{trial_id}", arguments)
        num_epochs, curve = arguments["num_train_epochs"], []
        try:
            with tempfile.TemporaryDirectory(prefix="trial-") as work:
                for epoch in range(1, num_epochs + 1):
                    time.sleep(epoch_seconds)
                    metrics = metrics_of(arguments, config["number"], epoch)
                    curve.append([epoch / num_epochs, metrics["validation_accuracy"]])
                    best = max(value for _, value in curve)
                    shown = {tag_of(name): value for name, value in metrics.items()}
                    events.scalars({**shown, best_tag("accuracy"): best}, 100 * epoch)
                    events.send()
                    reported = {
                        **metrics,
                        "epoch": epoch,
                        "progress": epoch / num_epochs,
                        "trial_seconds": time.monotonic() - began,
                        "best": best,
                        "saved_at": time.time(),
                        "failure": "",
                        "curve": list(curve),
                        "process": os.getpid(),
                        "process_cpu_s": time.process_time() - began_cpu,
                    }
                    directory = Path(work) / f"checkpoint-{100 * epoch}"
                    directory.mkdir()
                    for name in CHECKPOINT_FILES:
                        (directory / name).write_bytes(bytes(1024))
                    write_epoch(directory, {"epoch": epoch, "step": 100 * epoch, "metrics": reported})
                    log.write(f"epoch {epoch}: accuracy {metrics['validation_accuracy']:.4f}\n")
                    key = checkpoint_key(f"{settings.experiment}/{trial_id}", epoch)
                    upload_files(store, directory, key)
                    saved.append(upload_record(store, directory, key))
                    saved = thinned(store, saved, settings.metric, settings.mode, ended=epoch == num_epochs)
                    tune.report(reported)
            events.end("success")
        except ValueError as error:
            events.end("failure")
            tune.report({**dict.fromkeys(metrics_of_task("single_label"), 0.0), "failure": str(error)})
        finally:
            events.close()
            log.close()

    return run_trial
