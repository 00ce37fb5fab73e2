"""Decoders: a file for each task, in NumPy alone. Importing this registers them."""

from . import single_label as single_label
from .base import DECODERS as DECODERS
from .base import Decoder as Decoder
