"""Pruning: a file for each rule, and the callback that applies it. Importing this package registers the rules."""

from . import magnitude, movement, soft_movement  # noqa: F401 - the order in which messages list them
