"""How the pieces of a tokenizer depend on each other, one module for each type of tokenizer model."""

from . import byte_pair as byte_pair
from . import unigram as unigram
from . import word_piece as word_piece
from .base import PIECE_MODELS as PIECE_MODELS
from .base import PieceModel as PieceModel
from .base import piece_model as piece_model
