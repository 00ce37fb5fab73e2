"""How the pieces of a tokenizer depend on each other, for each kind of model; one module each registers it."""

from . import byte_pair as byte_pair
from . import unigram as unigram
from . import word_piece as word_piece
from .base import PIECE_MODELS as PIECE_MODELS
from .base import PieceModel as PieceModel
from .base import piece_model as piece_model
