"""The supported model families, each registered by its own module."""

from . import bert as bert
from . import distilbert as distilbert
from . import roberta as roberta
from .base import Attention as Attention
from .base import Family as Family
from .base import FeedForward as FeedForward
from .base import families as families
from .base import family_names as family_names
from .base import family_of as family_of
from .base import find_family as find_family
from .base import first_position as first_position
from .base import register as register
