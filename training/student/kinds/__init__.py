"""Student kinds, each with its keys, its checks and how it is built in one module. Importing this registers them."""

from . import layers, checkpoint, convolution, static, pruned  # noqa: F401, I001 - in the order in which they are listed
