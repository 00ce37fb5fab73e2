"""The name of a registered baseline as a value of the specification."""

from __future__ import annotations

from typing import Annotated

from ...training.section_registry import RegisteredName
from . import BASELINES

BaselineName = Annotated[str, RegisteredName(lambda: BASELINES, "a baseline")]
