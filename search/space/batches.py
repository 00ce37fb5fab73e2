"""Check that the batches of a search can be split among the processes of a trial."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError, InputError, listed
from ...training.distillation.config import TrainingConfig
from ..config import SearchConfig
from ..parameters import FloatRange, IntRange

_BATCH_SIZES = ("batch_size", "per_device_train_batch_size")
_SHRINKING = "auto_find_batch_size"


def check_batches(config: SearchConfig, training: TrainingConfig, num_processes: int) -> None:
    """Reject batch sizes that cannot be split into equal parts, before anything is started.

    Args:
        config: The ``search`` section.
        training: The ``training`` section.
        num_processes: Processes of a trial.

    Raises:
        ConfigError: A batch size is not a multiple of ``num_processes``; the message lists each with its parameter.
    """
    if num_processes == 1:
        return
    faults: list[str] = []
    for name in _BATCH_SIZES:
        if name not in config.space:
            continue
        parameter = config.space[name]
        if isinstance(parameter, IntRange | FloatRange) and parameter.single_value() is None:
            given = f"any number from {parameter.low} to {parameter.high}"
            faults.append(_uneven(f"search.space.{name}", given, num_processes, "a choice of multiples"))
            continue
        faults += [
            _uneven(f"search.space.{name}", value, num_processes)
            for value in parameter.end_values()
            if isinstance(value, int | float) and value % num_processes
        ]
    faults += _of_training(config, training, num_processes)
    if training.arguments.get(_SHRINKING) or _SHRINKING in config.space:
        where = "search.space" if _SHRINKING in config.space else "training.arguments"
        faults.append(
            f"{where}.{_SHRINKING}: given, but with resources.trial.processes {num_processes} each process would "
            f"find a different size; remove it, and set training.batch_size"
        )
    if faults:
        raise ConfigError(listed(faults))


def _of_training(config: SearchConfig, training: TrainingConfig, num_processes: int) -> list[str]:
    """Return the faults of the batch size of the section ``training``, if it applies to some trial."""
    if any(name in config.space and not config.space[name].when for name in _BATCH_SIZES):
        return []
    for name in _BATCH_SIZES:
        if name in training.arguments:
            where, value = f"training.arguments.{name}", training.arguments[name]
            break
    else:
        sizes = {"training.batch_size": training.batch_size} | {
            f"training.by_kind.{kind}.batch_size": each.batch_size
            for kind, each in training.by_kind.items()
            if each.batch_size is not None
        }
        return [_uneven(where, size, num_processes) for where, size in sizes.items() if size % num_processes]
    return [_uneven(where, value, num_processes)] if value % num_processes else []


def _uneven(where: str, given: Any, num_processes: int, wanted: str = "a multiple") -> str:
    return (
        f"{where}: {given} given, but resources.trial.processes is {num_processes}, and a batch is split evenly "
        f"among them; give {wanted} of {num_processes}"
    )


def part_of_batch(batch_size: int, num_processes: int) -> int:
    """Return how many texts of a batch each process gets.

    Raises:
        InputError: The batch cannot be split into equal parts.
    """
    if batch_size % num_processes:
        raise InputError(_uneven("batch_size", batch_size, num_processes))
    return batch_size // num_processes
