"""Early stopping: one file per rule, and the Tune scheduler that applies it. Importing this registers the rules."""

from . import none, asha, median  # noqa: F401, I001 - in the order in which they are listed
