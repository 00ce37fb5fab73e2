"""The same commands with good inputs, which must be accepted: cases are then rejected only for their bad input."""

from __future__ import annotations

from .case import Case
from .goods import RUN, STORAGE, TEXT
from .server import NOT_REJECTED

JOB = ("data", "checkpoint", "job.yaml")

CONTROLS: tuple[Case, ...] = (
    Case("good/config", ("config", "job.yaml"), needs=JOB, status=0),
    Case("good/run", ("run", "job.yaml"), needs=JOB, status=NOT_REJECTED),
    Case("good/predict", ("predict", "artifact", TEXT), needs=("artifact",), status=0),
    Case("good/show", ("show", RUN), needs=(STORAGE,), status=0),
    Case("good/status", ("status", RUN), needs=(STORAGE,), status=0),
    Case("good/report", ("report", RUN), needs=(STORAGE,), status=0),
    Case("good/pull", ("pull", RUN, "--to", "pulled"), needs=(STORAGE,), status=0),
    Case("good/runs", ("runs",), needs=(STORAGE,), status=0),
)
