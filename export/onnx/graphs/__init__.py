"""Model types whose graphs are written node by node, one file for each."""

from . import convolution as convolution
from . import static as static
from .base import find_graph as find_graph
from .base import written_graphs as written_graphs
