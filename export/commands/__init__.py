"""Commands that need no more than the runtime does: onnxruntime, tokenizers, numpy and the standard library."""

from . import streams as streams
from .arguments import Command as Command
from .predict import PREDICT
from .verify import VERIFY

COMMANDS: dict[str, Command] = {each.name: each for each in (PREDICT, VERIFY)}
"""Every command of this package by its name."""
