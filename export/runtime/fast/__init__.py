"""Tokenizers that replace ``tokenizers`` for single texts, one file each; importing this package registers them."""

from . import nanotoken as nanotoken
from . import tokie as tokie
from .base import FAST_TOKENIZERS as FAST_TOKENIZERS
from .base import FastTokenizer as FastTokenizer
