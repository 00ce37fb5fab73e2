"""Decoders, one file for each task, with NumPy only; importing this package registers them."""

from . import single_label as single_label

# isort: split
from . import multi_label as multi_label
from . import question_answering as question_answering
from . import regression as regression
from . import token_classification as token_classification
from .base import DECODERS as DECODERS
from .base import Decoder as Decoder
from .base import TokenDecoder as TokenDecoder
from .base import Tokens as Tokens
from .question_answering import WindowDecoder as WindowDecoder
