"""The supported model families, each registered by its own module."""

from . import albert as albert
from . import bert as bert
from . import camembert as camembert
from . import deberta_v2 as deberta_v2
from . import distilbert as distilbert
from . import electra as electra
from . import modernbert as modernbert
from . import mpnet as mpnet
from . import roberta as roberta
from . import xlm_roberta as xlm_roberta
from .base import CAPABILITIES as CAPABILITIES
from .base import Attention as Attention
from .base import Capability as Capability
from .base import Family as Family
from .base import FeedForward as FeedForward
from .base import families as families
from .base import family_names as family_names
from .base import family_of as family_of
from .base import find_family as find_family
from .base import first_position as first_position
from .base import register as register
from .base import with_layers as with_layers
