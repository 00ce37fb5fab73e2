"""The selected trial: store its model in the run, and replace it by another that the user selects."""

from __future__ import annotations

import shutil
from typing import Any

from ...errors import InputError
from ...search.space.space import VALIDATION
from ...search.student_arguments import STUDENT_KIND
from ...search.trial_record import TrialRecord, find_trial
from ...storage.folders import new_folder
from ..specification.config import JobConfig
from ..store.records import trials_of
from ..store.removal import check_not_cut
from ..store.runs import END_SEARCH, Run, command

_AFTER_SEARCH = ("export", "benchmark", "gate", "report", "artifact")


def keep_best(run: Run, student: str, checkpoint: str) -> None:
    """Store a training checkpoint's weights and configuration, with the tokenizer, as the run's best model.

    Args:
        run: Run that stores the model.
        student: Key of the student that the trial started from.
        checkpoint: Key of the training checkpoint.
    """
    from ...search.trial.checkpoints import download_checkpoint

    with new_folder(run.store.local(run.best)) as folder:
        shutil.copytree(run.store.fetch(student), folder, dirs_exist_ok=True)
        download_checkpoint(run.store, checkpoint, folder, ("model.safetensors", "config.json"))
    run.store.publish(run.best)


def best_of(config: JobConfig, trial: TrialRecord) -> dict[str, Any]:
    """Return the record of the best trial, with the values that every report shows, whether searched or fixed."""
    training = config.training.of_kind(trial.parameters.get(STUDENT_KIND))
    values = {
        name: trial.parameters.get(name, getattr(training, name))
        for name in ("alpha", "temperature", "num_train_epochs")
    }
    return {
        **values,
        "metric": config.metric,
        "value": trial.metrics[f"{VALIDATION}{config.metric}"],
        "validation_accuracy": trial.metrics.get("validation_accuracy"),
        "trial_id": trial.trial_id,
        "epoch": trial.best_epoch,
        "parameters": trial.parameters,
        "metrics": trial.metrics,
    }


def select_other_trial(run: Run, trial_id: str) -> None:
    """Select another trial to export; the stages after the search have to run again.

    Raises:
        InputError: The search is not finished, the run is running, or there is no such trial with a checkpoint.
    """
    check_not_cut(run, "another trial cannot be selected")
    record = run.stage_record("search")
    if record.get("state") != "finished":
        raise InputError(
            f"run {run.id}: its search has not finished; end it with the trials that are done: "
            f"{command('resume', run, END_SEARCH)}"
        )
    trials = {trial.trial_id: trial for trial in trials_of(record["result"]) if trial.checkpoint}
    found = find_trial(trial_id, trials)
    if found is None:
        raise InputError(
            f"run {run.id} has no trial {trial_id!r} with a checkpoint; it has: {', '.join(trials)}"
        )
    trial, checkpoint = trials[found], trials[found].checkpoint
    assert checkpoint is not None, "only trials with a checkpoint were looked through"
    config = run.specification()
    with run.held():
        from ...search.space.students import student_name

        students = run.stage_record("student")["result"]["students"]
        keep_best(run, students[student_name(trial.parameters)]["key"], checkpoint)
        for stage in _AFTER_SEARCH:
            run.store.delete(run.key(f"stages/{stage}.json"))
        why = f"trial {found}, selected manually"
        result = {**record["result"], "best": best_of(config, trial), "choice": why}
        run.write("stages/search.json", {**record, "result": result, "text": why})
        run.write("run.json", {**(run.read("run.json") or {}), "state": "stopped", "error": None})
