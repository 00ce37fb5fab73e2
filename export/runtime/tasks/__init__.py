"""Decoders, one file for each task, in NumPy alone; importing this package registers them."""

from . import single_label as single_label
from . import token_classification as token_classification
from .base import DECODERS as DECODERS
from .base import Decoder as Decoder
from .base import TokenDecoder as TokenDecoder
from .base import Tokens as Tokens
