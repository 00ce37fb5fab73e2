"""Baselines: classical classifiers that the selected variant is compared with; and their registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...training.registry import Registry

if TYPE_CHECKING:
    import numpy as np

EXTRA = "pip install 'distiltune[baselines]'"


@dataclass(frozen=True)
class TrainingTexts:
    """The labelled texts that a baseline is trained on.

    Attributes:
        texts: N texts.
        classes: int64[N], 0 to C - 1; every class occurs.
        is_balanced: Whether every class has the same weight, whatever its number of texts.
        seed: Seed of whatever is random.
        model: The model that the baseline starts from, if it needs one: a folder, or a name on the hub.
    """

    texts: Sequence[str]
    classes: np.ndarray
    is_balanced: bool = False
    seed: int = 0
    model: str | None = None

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return int(self.classes.max()) + 1


class Fitted(Protocol):
    """A trained baseline."""

    @property
    def features(self) -> str:
        """The kinds of its features and their numbers, in words."""
        ...

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return one score for each class, float32[N, C]; those of a text do not depend on the other texts."""
        ...

    def save(self, path: Path) -> None:
        """Write everything that is needed to classify to one file, whose size is reported."""
        ...


@dataclass(frozen=True)
class Baseline:
    """One kind of baseline.

    Attributes:
        name: Name in ``benchmark.baselines``, and of its measurement.
        title: What to call it in a sentence, such as ``a tf-idf SVM``.
        description: One phrase for help and schema.
        package: Name of the package that it needs, for pip.
        module: The package's module.
        install: Command that installs it.
        fit: Trains it.
        load: Reads the file that ``Fitted.save`` has written.
        tasks: Names of the tasks that it supports.
        model_key: Key of the specification with the model that it starts from; None where it needs none.
        growth: Exponent by which its training time grows with the number of texts, as measured.
        version: Number to raise when ``fit`` changes, so that stored measurements are not reused.
    """

    name: str
    title: str
    description: str
    package: str
    module: str
    install: str
    fit: Callable[[TrainingTexts], Fitted]
    load: Callable[[Path], Fitted]
    tasks: tuple[str, ...] = ("single_label",)
    model_key: str | None = None
    growth: float = 1.0
    version: int = 1

    def why_not(self, task: str, model: str | None = None) -> str | None:
        """Return why a job cannot have this baseline, with the remedy; None where it can.

        Args:
            task: Name of the job's task.
            model: Value of ``model_key``.
        """
        if task not in self.tasks:
            return (
                f"it supports the task {', '.join(self.tasks)}, and the task of this job is {task}; remove it"
            )
        if find_spec(self.module) is None:
            return f"{self.package} is not installed; {self.install}"
        if self.model_key is not None and model is None:
            return f"it starts from a model; set {self.model_key} to its folder or its name on the hub"
        return None

    @property
    def package_version(self) -> str:
        """Installed version of the package; empty if it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return ""


BASELINES: Registry[Baseline] = Registry()
"""Every registered baseline by its name; filled when the package is imported."""
