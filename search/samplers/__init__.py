"""Samplers: one file per way to suggest the arguments of the next trial. Importing this registers them."""

from . import tpe, random_search, qmc, nsga2, gp  # noqa: F401, I001 - in the order in which they are listed
