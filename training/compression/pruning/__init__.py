"""Pruning: a file for each rule, and the callback that applies it. Importing this registers the rules."""

from . import magnitude, movement, soft_movement  # noqa: F401 - in the order in which they are listed
